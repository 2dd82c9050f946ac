// resolv.conf on a real disk: byte for byte, for every kind of original, killed between any two steps.
import { afterEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLogger } from "../../../../src/base/log.ts";
import { DnsRefused } from "../../../../src/net/dns/errors.ts";
import { resolvConfDns, restoreResolvConf, type ResolvConfDeps } from "../../../../src/net/dns/resolv-conf.ts";
import { resolvConfText } from "../../../../src/net/dns/resolv-conf-text.ts";
import { makeResolvedRead } from "../../../../src/net/dns/resolved.ts";
import type { DnsPolicy } from "../../../../src/net/dns/system-dns.ts";
import { type Exec, ToolTimeout } from "../../../../src/net/exec.ts";
import type { UndoEntry } from "../../../../src/net/journal.ts";
import { ip } from "../firewall/exit-policy.ts";
import { memoryJournal, type MemoryJournal } from "../memory-journal.ts";

const { signal } = new AbortController();
const POLICY: DnsPolicy = { interface: "higgs0", servers: [ip("10.83.0.1"), ip("fd83:1:2::1")] };
const OTHER: DnsPolicy = { ...POLICY, servers: [ip("10.83.0.9")], searchDomains: ["home.example"] };

interface Place extends ResolvConfDeps {
  readonly path: string;
  readonly etcDir: string;
  readonly journal: MemoryJournal;
}

const made: string[] = [];
afterEach(() => {
  for (const dir of made.splice(0)) rmSync(dir, { recursive: true });
});

function place(): Place {
  const dir = mkdtempSync(join(tmpdir(), "higgs-dns-"));
  made.push(dir);
  const etcDir = join(dir, "etc");
  const stateDir = join(dir, "state");
  mkdirSync(etcDir);
  mkdirSync(stateDir);
  return { etcDir, stateDir, path: join(etcDir, "resolv.conf"), journal: memoryJournal(), log: silentLogger };
}

/** Everything that could be left behind, as text. */
function printed({ etcDir, stateDir, journal }: Place): string {
  const lines: string[] = [];
  for (const dir of [etcDir, stateDir]) {
    for (const name of readdirSync(dir).sort()) {
      const path = join(dir, name);
      const facts = lstatSync(path);
      const what = facts.isSymbolicLink() ? `-> ${readlinkSync(path)}` : readFileSync(path).toString("base64");
      lines.push(`${name} ${(facts.mode & 0o777).toString(8)} ${facts.uid} ${what}`);
    }
  }
  return [...lines, journal.printed()].join("\n");
}

const ORIGINALS: Readonly<Record<string, (at: Place) => void>> = {
  "a file of odd bytes": ({ path }) => {
    writeFileSync(path, Uint8Array.of(0x23, 0xff, 0x00, 0x0a, 0x6e));
    chmodSync(path, 0o640);
  },
  "an empty file": ({ path }) => writeFileSync(path, ""),
  "a file longer than ours": ({ path }) => writeFileSync(path, `# ${"long ".repeat(200)}\nnameserver 192.0.2.1\n`),
  "a link": ({ path, etcDir }) => {
    writeFileSync(join(etcDir, "stub.conf"), "nameserver 127.0.0.53\n");
    symlinkSync("stub.conf", path);
  },
  "a link to nothing": ({ path }) => symlinkSync("../run/none.conf", path),
  "no file": () => undefined,
};

describe("resolvConfDns()", () => {
  for (const [name, make] of Object.entries(ORIGINALS)) {
    test(`puts back ${name}, byte for byte`, async () => {
      const at = place();
      make(at);
      const before = printed(at);
      const dns = resolvConfDns(at);
      await dns.apply(POLICY, signal);
      expect(readFileSync(at.path, "utf8")).toBe(resolvConfText(POLICY));
      expect(lstatSync(at.path).mode & 0o777).toBe(0o644);
      expect(at.journal.printed()).toBe("resolv-conf");
      await dns.apply(POLICY, signal);
      await dns.apply(OTHER, signal);
      expect(readFileSync(at.path, "utf8")).toBe(resolvConfText(OTHER));
      await dns.reset(signal);
      expect(printed(at)).toBe(before);
      await dns.reset(signal);
      expect(printed(at)).toBe(before);
    });

    test(`puts back ${name} after the journal was lost`, async () => {
      const at = place();
      make(at);
      const before = printed(at);
      await resolvConfDns(at).apply(POLICY, signal);
      const later = { ...at, journal: memoryJournal() };
      expect(await restoreResolvConf(later, signal)).toBe(true);
      expect(printed(later)).toBe(before);
      expect(await restoreResolvConf(later, signal)).toBe(false);
    });

    for (const step of ["before the entry", "after the entry"] as const) {
      test(`puts back ${name} after being killed ${step}, also when it is applied once more first`, async () => {
        const at = place();
        make(at);
        const before = printed(at);
        await resolvConfDns({ ...at, journal: dyingAt("add", step, at.journal) })
          .apply(POLICY, signal)
          .catch(died);
        writeFileSync(`${at.path}.higgs-new`, "half a text");
        await restoreResolvConf(at, signal);
        expect(printed(at)).toBe(before);

        await resolvConfDns({ ...at, journal: dyingAt("add", step, at.journal) })
          .apply(POLICY, signal)
          .catch(died);
        await resolvConfDns(at).apply(POLICY, signal);
        for (const half of ["before the entry", "after the entry"] as const) {
          await restoreResolvConf({ ...at, journal: dyingAt("remove", half, at.journal) }, signal).catch(died);
        }
        await restoreResolvConf(at, signal);
        expect(printed(at)).toBe(before);
      });
    }
  }

  test("keeps what a user wrote over ours, and what a user edited in ours", async () => {
    for (const edit of ["nameserver 192.0.2.9\n", `${resolvConfText(POLICY)}options edns0\n`]) {
      const at = place();
      writeFileSync(at.path, "nameserver 192.0.2.1\n");
      await resolvConfDns(at).apply(POLICY, signal);
      writeFileSync(at.path, edit);
      const theirs = printed(at).split("\n")[0];
      expect(await restoreResolvConf(at, signal)).toBe(false);
      expect(printed(at)).toBe(`${theirs}\n`);
    }
  });

  test("takes what a network manager wrote over ours as the new original", async () => {
    const at = place();
    writeFileSync(at.path, "nameserver 192.0.2.1\n");
    const dns = resolvConfDns(at);
    await dns.apply(POLICY, signal);
    unlinkSync(at.path);
    writeFileSync(at.path, "nameserver 192.0.2.2\n");
    await dns.apply(POLICY, signal);
    expect(readFileSync(at.path, "utf8")).toBe(resolvConfText(POLICY));
    await dns.reset(signal);
    expect(readFileSync(at.path, "utf8")).toBe("nameserver 192.0.2.2\n");
  });

  test("finishes a write in place that was cut short, in both directions", async () => {
    const at = place();
    const original = `# ${"long ".repeat(200)}\nnameserver 192.0.2.1\n`;
    writeFileSync(at.path, original);
    await resolvConfDns(at).apply(POLICY, signal);
    const ours = readFileSync(at.path);
    writeFileSync(at.path, Buffer.concat([ours, Buffer.alloc(original.length - ours.length, "\n")]));
    expect(await restoreResolvConf({ ...at, journal: memoryJournal() }, signal)).toBe(true);
    expect(readFileSync(at.path, "utf8")).toBe(original);

    writeFileSync(at.path, "nameserver 192.0.2.1\n");
    await resolvConfDns(at).apply(POLICY, signal);
    writeFileSync(at.path, "nameserver 192.0.2.1\n".padEnd(readFileSync(at.path).length, "\n"));
    expect(await restoreResolvConf(at, signal)).toBe(true);
    expect(readFileSync(at.path, "utf8")).toBe("nameserver 192.0.2.1\n");
  });

  for (const name of ["a file of odd bytes", "a link", "a link to nothing"]) {
    test(`bug: ${name} did not come back after somebody had taken ours away`, async () => {
      const at = place();
      ORIGINALS[name]?.(at);
      const before = printed(at);
      await resolvConfDns(at).apply(POLICY, signal);
      unlinkSync(at.path);
      expect(await restoreResolvConf(at, signal)).toBe(true);
      expect(printed(at)).toBe(before);
    });
  }

  test("bug: what somebody wrote while a resolver read ours was overwritten by the copy", async () => {
    const at = place();
    symlinkSync("../run/systemd/resolve/stub-resolv.conf", at.path);
    await resolvConfDns(at).apply(POLICY, signal);
    const makeRead = async (): Promise<void> => {
      unlinkSync(at.path);
      writeFileSync(at.path, "nameserver 192.0.2.9\n");
    };
    expect(await restoreResolvConf({ ...at, makeRead }, signal)).toBe(false);
    expect(readFileSync(at.path, "utf8")).toBe("nameserver 192.0.2.9\n");
  });

  test("bug: two that put the file back at once took each other's half-written file away, and failed", async () => {
    for (let round = 0; round < 50; round++) {
      const at = place();
      writeFileSync(at.path, "nameserver 192.0.2.1\n");
      const before = printed(at);
      await resolvConfDns(at).apply(POLICY, signal);
      const other = { ...at, journal: memoryJournal(at.journal.entries()) };
      await Promise.all([restoreResolvConf(at, signal), restoreResolvConf(other, signal)]);
      expect(printed(at)).toBe(before);
    }
  });

  test("bug: a systemd-resolved that does not answer kept a file without servers in place of its link", async () => {
    const at = place();
    symlinkSync("../run/systemd/resolve/stub-resolv.conf", at.path);
    const before = printed(at);
    await resolvConfDns(at).apply(POLICY, signal);
    const hangs: Exec = {
      async run([tool]) {
        if (tool === "systemctl") return { code: 0, stdout: "active\n", stderr: "" };
        throw new ToolTimeout(`Cannot run "${tool}".`, { code: "tool-timeout" });
      },
    };
    const makeRead = (limited: AbortSignal): Promise<void> => makeResolvedRead(hangs, limited);
    expect(await restoreResolvConf({ ...at, makeRead }, signal)).toBe(true);
    expect(printed(at)).toBe(before);
  });

  test("says so when the copy is gone, and leaves the file", async () => {
    const at = place();
    await resolvConfDns(at).apply(POLICY, signal);
    unlinkSync(join(at.stateDir, "resolv.conf.before"));
    const thrown = await restoreResolvConf(at, signal).catch((error: unknown) => error);
    expect(thrown).toBeInstanceOf(DnsRefused);
    expect(readFileSync(at.path, "utf8")).toBe(resolvConfText(POLICY));
  });

  test("takes no search domain that is no DNS name", async () => {
    const at = place();
    for (const domain of ["a\nnameserver 192.0.2.66", "-a", "~.", "a b", "", "a..b"]) {
      const policy = { ...POLICY, searchDomains: [domain] };
      const thrown = await resolvConfDns(at)
        .apply(policy, signal)
        .catch((error: unknown) => error);
      expect(thrown).toBeInstanceOf(DnsRefused);
    }
    expect(readdirSync(at.etcDir)).toEqual([]);
  });

  test("survives kill -9 at any moment", async () => {
    const at = place();
    writeFileSync(at.path, "nameserver 192.0.2.1\n");
    chmodSync(at.path, 0o640);
    const before = printed(at);
    const source = join(import.meta.dir, "resolv-conf-loop.program.ts");
    for (let round = 0; round < 12; round++) {
      const child = Bun.spawn([process.execPath, source, at.stateDir, at.path], { stdout: "pipe", stderr: "inherit" });
      const reader = child.stdout.getReader();
      // Somewhere in the turn after this many; where, the machine decides.
      for (let turn = 0; turn <= round; turn++) await reader.read();
      child.kill("SIGKILL");
      await child.exited;
      await restoreResolvConf(at, signal);
      expect(printed(at)).toBe(before);
    }
  }, 30_000);
});

class Died extends Error {
  override readonly name = "Died";
}

function died(thrown: unknown): void {
  if (!(thrown instanceof Died)) throw thrown;
}

/** A journal whose process is gone at its first `verb`: before the entry is written, or after. */
function dyingAt(
  verb: "add" | "remove",
  when: "before the entry" | "after the entry",
  journal: MemoryJournal,
): MemoryJournal {
  const die = async (entry: UndoEntry): Promise<void> => {
    if (when === "after the entry") await journal[verb](entry);
    throw new Died();
  };
  return { ...journal, entries: () => journal.entries(), [verb]: die };
}
