// Tests of the journal on disk: durable before a change, distrustful of what it reads, and never the reason that nothing starts.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { createLogger, silentLogger } from "../../../src/base/log.ts";
import type { SysctlKey, UndoEntry } from "../../../src/net/journal.ts";
import { type JournalFile, openJournal } from "../../../src/net/journal-file.ts";
import { bootId } from "../../../src/net/process-identity.ts";
import { failureOf } from "../support/failure.ts";

const SHA = "0123456789abcdef".repeat(4);
const EVERY_KIND: readonly UndoEntry[] = [
  { kind: "nft-table" },
  { kind: "ip-rules" },
  { kind: "ip-routes" },
  { kind: "sysctl", key: "net.ipv4.ip_forward", before: "0", ours: "1" },
  { kind: "sysctl", key: "net.ipv6.conf.eth0.10.accept_ra" as SysctlKey, before: "1", ours: "2" },
  { kind: "wireguard-device" },
  { kind: "resolved-link" },
  { kind: "resolv-conf", original: { kind: "symlink", target: "../run/resolv.conf" }, oursSha256: SHA },
];

let dir = "";
let path = "";
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "higgs-journal-"));
  path = join(dir, "journal.json");
});
afterEach(() => rmSync(dir, { recursive: true }));

function open(): Promise<JournalFile> {
  return openJournal({ path, role: "client", log: silentLogger });
}

function stored(): Record<string, unknown> {
  return JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
}

describe("openJournal()", () => {
  test("finds nothing where there is no file, and makes none by itself", async () => {
    const journal = await open();
    expect(journal.entries()).toEqual([]);
    expect(journal.owner).toBeNull();
    expect(readdirSync(dir)).toEqual([]);
  });

  test("gives the next process every entry in its order, and tells who wrote them", async () => {
    const journal = await open();
    for (const entry of EVERY_KIND) await journal.add(entry);
    const next = await open();
    expect(next.entries()).toEqual(EVERY_KIND);
    expect(next.owner).toMatchObject({ pid: process.pid, sameBoot: true, alive: true });
    expect(readdirSync(dir)).toEqual(["journal.json"]);
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  test("is on disk when add() resolves, also for many at once", async () => {
    const journal = await open();
    await Promise.all(EVERY_KIND.map((entry) => journal.add(entry)));
    expect((await open()).entries()).toHaveLength(EVERY_KIND.length);
  });

  test("keeps what was there before, and takes what we made of it last", async () => {
    const journal = await open();
    await journal.add({ kind: "sysctl", key: "net.ipv4.ip_forward", before: "0", ours: "1" });
    await journal.add({ kind: "sysctl", key: "net.ipv4.ip_forward", before: "1", ours: "2" });
    await journal.add({ kind: "resolv-conf", original: { kind: "file", mode: 0o644, sha256: SHA }, oursSha256: SHA });
    const ours = "f".repeat(64);
    await journal.add({ kind: "resolv-conf", original: { kind: "absent" }, oursSha256: ours });
    expect((await open()).entries()).toEqual([
      { kind: "sysctl", key: "net.ipv4.ip_forward", before: "0", ours: "2" },
      { kind: "resolv-conf", original: { kind: "file", mode: 0o644, sha256: SHA }, oursSha256: ours },
    ]);
  });

  test("leaves no file behind when the last entry is removed", async () => {
    const journal = await open();
    for (const entry of EVERY_KIND) await journal.add(entry);
    for (const entry of EVERY_KIND) await journal.remove(entry);
    await journal.remove({ kind: "nft-table" });
    expect(journal.entries()).toEqual([]);
    expect(readdirSync(dir)).toEqual([]);
  });

  test("removes one setting and not another", async () => {
    const journal = await open();
    for (const entry of EVERY_KIND) await journal.add(entry);
    await journal.remove({ kind: "sysctl", key: "net.ipv4.ip_forward", before: "", ours: "" });
    expect((await open()).entries()).toEqual(EVERY_KIND.filter((one) => one !== EVERY_KIND[3]));
  });

  test("keeps files only when the machine was started anew since", async () => {
    const journal = await open();
    for (const entry of EVERY_KIND) await journal.add(entry);
    const other = bootId().replace(/^./, (digit) => (digit === "0" ? "1" : "0"));
    writeFileSync(path, JSON.stringify({ ...stored(), bootId: other }));
    const next = await open();
    expect(next.owner).toMatchObject({ sameBoot: false, alive: false });
    expect(next.entries().map((entry) => entry.kind)).toEqual(["resolv-conf"]);
  });

  test("knows a writer that is dead", async () => {
    await (await open()).add({ kind: "nft-table" });
    writeFileSync(path, JSON.stringify({ ...stored(), startTime: "1" }));
    expect((await open()).owner).toMatchObject({ sameBoot: true, alive: false });
  });
});

describe("openJournal() of a file that is not to be trusted", () => {
  const CORRUPT: Readonly<Record<string, (sound: Record<string, unknown>) => string>> = {
    empty: () => "",
    "cut short": (sound) => JSON.stringify(sound).slice(0, -3),
    "of another version": (sound) => JSON.stringify({ ...sound, version: 2 }),
    "of another role": (sound) => JSON.stringify({ ...sound, role: "node" }),
    "with a field more": (sound) => JSON.stringify({ ...sound, command: "reboot" }),
    "with an unknown entry": (sound) => JSON.stringify({ ...sound, undo: [{ kind: "command", argv: ["reboot"] }] }),
    "with a setting that is not ours": (sound) =>
      JSON.stringify({ ...sound, undo: [{ kind: "sysctl", key: "kernel.core_pattern", before: "1", ours: "0" }] }),
    "with a setting that leads elsewhere": (sound) =>
      JSON.stringify({
        ...sound,
        undo: [{ kind: "sysctl", key: "net.ipv6.conf.../../x.accept_ra", before: "1", ours: "0" }],
      }),
    "with a value that is no number": (sound) =>
      JSON.stringify({
        ...sound,
        undo: [{ kind: "sysctl", key: "net.ipv4.ip_forward", before: "|/bin/sh", ours: "0" }],
      }),
    "with a mode that sets the user": (sound) =>
      JSON.stringify({
        ...sound,
        undo: [{ kind: "resolv-conf", original: { kind: "file", mode: 0o4755, sha256: SHA }, oursSha256: SHA }],
      }),
    "that is too long": (sound) => JSON.stringify({ ...sound, undo: Array(5000).fill({ kind: "nft-table" }) }),
  };

  for (const [what, spoil] of Object.entries(CORRUPT)) {
    test(`puts one aside ${what}`, async () => {
      await (await open()).add({ kind: "nft-table" });
      const text = spoil(stored());
      writeFileSync(path, text);
      const lines: string[] = [];
      const log = createLogger({ level: "warn", write: (line) => lines.push(line) });
      const journal = await openJournal({ path, role: "client", log });
      expect(journal.entries()).toEqual([]);
      expect(readFileSync(`${path}.corrupt-1`, "utf8")).toBe(text);
      expect(existsSync(path)).toBeFalse();
      expect(lines).toHaveLength(1);
    });
  }

  test("keeps a bounded number of those", async () => {
    for (let n = 0; n < 6; n++) {
      writeFileSync(path, `garbage ${n}`);
      await open();
    }
    expect(readdirSync(dir).sort()).toEqual([1, 2, 3].map((n) => `journal.json.corrupt-${n}`));
    expect(readFileSync(`${path}.corrupt-3`, "utf8")).toBe("garbage 5");
  });

  test("does not follow a symbolic link, neither reading nor writing", async () => {
    const secret = join(dir, "secret");
    writeFileSync(secret, "untouched");
    symlinkSync(secret, path);
    symlinkSync(secret, `${path}.tmp`);
    const journal = await open();
    await journal.add({ kind: "nft-table" });
    expect(readFileSync(secret, "utf8")).toBe("untouched");
    expect((await open()).entries()).toEqual([{ kind: "nft-table" }]);
  });

  test("is not stopped by what an earlier process left half-written", async () => {
    writeFileSync(`${path}.tmp`, '{"version":1,');
    await (await open()).add({ kind: "nft-table" });
    expect(readdirSync(dir)).toEqual(["journal.json"]);
  });

  test("refuses an entry that it cannot write, as nothing may be changed then, and forgets what was undone all the same", async () => {
    const journal = await open();
    await journal.add({ kind: "nft-table" });
    await journal.add({ kind: "ip-rules" });
    mkdirSync(`${path}.tmp`); // in the way of every write
    expect(await failureOf(journal.add({ kind: "wireguard-device" }))).toMatchObject({
      code: "journal-unwritable",
      remedy: expect.stringContaining("ls -ld") as string,
    });
    expect(journal.entries()).toEqual([{ kind: "nft-table" }, { kind: "ip-rules" }]);
    await journal.remove({ kind: "ip-rules" });
    expect(journal.entries()).toEqual([{ kind: "nft-table" }]);
    await journal.remove({ kind: "nft-table" });
    expect(existsSync(path)).toBeFalse();
  });

  test("never throws for the content of a file", async () => {
    await fc.assert(
      fc.asyncProperty(fc.oneof(fc.string(), fc.json()), async (text) => {
        writeFileSync(path, text);
        expect((await open()).entries()).toEqual([]);
      }),
      { numRuns: 50 },
    );
  });

  test("says what to do where it may not look", async () => {
    if (process.getuid?.() === 0) {
      // Root may look everywhere, so the folder is none.
      path = join(path, "journal.json");
      writeFileSync(join(dir, "journal.json"), "");
    } else {
      writeFileSync(path, "");
      chmodSync(path, 0);
    }
    expect(await open().catch((thrown: unknown) => thrown)).toMatchObject({ code: "journal-unreadable" });
  });
});
