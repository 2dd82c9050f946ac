// Tests of kernel settings on a folder that looks like /proc/sys: written only where needed, journaled before, put back only if still ours.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { silentLogger } from "../../../src/base/log.ts";
import type { SysctlKey, UndoEntry } from "../../../src/net/journal.ts";
import { linuxSysctl, parseSysctlKey, sysctlFile, SysctlRefused } from "../../../src/net/sysctl.ts";
import { memoryJournal } from "./memory-journal.ts";

const FORWARD: SysctlKey = "net.ipv4.ip_forward";
const ACCEPT_RA: SysctlKey = "net.ipv6.conf.eth0.10.accept_ra";

let rootDir = "";
beforeEach(() => {
  rootDir = mkdtempSync(join(tmpdir(), "higgs-sysctl-"));
  write(FORWARD, "0");
  write(ACCEPT_RA, "1");
});
afterEach(() => rmSync(rootDir, { recursive: true }));

function write(key: SysctlKey, value: string): void {
  const path = join(rootDir, sysctlFile(key));
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, `${value}\n`);
}

function read(key: SysctlKey): string {
  return readFileSync(join(rootDir, sysctlFile(key)), "utf8").trim();
}

function sysctl(start: readonly UndoEntry[] = []) {
  const journal = memoryJournal(start);
  return { journal, sysctl: linuxSysctl({ journal, log: silentLogger, rootDir }) };
}

describe("sysctlFile()", () => {
  test("keeps the dots of an interface's name", () => {
    expect(sysctlFile(ACCEPT_RA)).toBe("net/ipv6/conf/eth0.10/accept_ra");
    expect(sysctlFile(FORWARD)).toBe("net/ipv4/ip_forward");
  });

  test("leads to no file but those on the list", () => {
    const others = [
      "kernel.core_pattern",
      "net.ipv4.tcp_syncookies",
      "net.ipv6.conf...accept_ra",
      "",
      "net.ipv4.ip_forward\n",
    ];
    for (const key of [...others, "net.ipv6.conf.../../../kernel/x.accept_ra", "net.ipv6.conf.a/b.accept_ra"]) {
      expect(parseSysctlKey(key)).toBeNull();
      expect(() => sysctlFile(key as SysctlKey)).toThrow(SysctlRefused);
    }
  });
});

describe("linuxSysctl()", () => {
  test("reads a value, and null where the kernel has none", async () => {
    expect(await sysctl().sysctl.read(FORWARD)).toBe("0");
    expect(await sysctl().sysctl.read("net.ipv6.conf.wlan0.accept_ra")).toBeNull();
  });

  test("remembers the setting that the kernel changes with ip_forward, and puts it back after that", async () => {
    const redirects: SysctlKey = "net.ipv4.conf.all.accept_redirects";
    write(redirects, "0");
    const { journal, sysctl: settings } = sysctl();
    await settings.set(FORWARD, "1");
    expect(journal.entries()).toEqual([
      { kind: "sysctl", key: redirects, before: "0", ours: "0" },
      { kind: "sysctl", key: FORWARD, before: "0", ours: "1" },
    ]);
    expect(await settings.verify()).toEqual([]);
    write(redirects, "1"); // as the kernel does it
    await settings.restore();
    expect([read(FORWARD), read(redirects), journal.entries().length]).toEqual(["0", "0", 0]);
  });

  test("journals the old value and writes the new one", async () => {
    const { journal, sysctl: settings } = sysctl();
    await settings.set(FORWARD, "1");
    expect(read(FORWARD)).toBe("1");
    expect(journal.entries()).toEqual([{ kind: "sysctl", key: FORWARD, before: "0", ours: "1" }]);
  });

  test("writes and journals nothing when it is as wanted", async () => {
    const { journal, sysctl: settings } = sysctl();
    const { mtimeNs } = statSync(join(rootDir, sysctlFile(FORWARD)), { bigint: true });
    await settings.set(FORWARD, "0");
    expect(statSync(join(rootDir, sysctlFile(FORWARD)), { bigint: true }).mtimeNs).toBe(mtimeNs);
    expect(journal.entries()).toEqual([]);
  });

  test("refuses a setting that is not there, and makes no file for it", async () => {
    const { journal, sysctl: settings } = sysctl();
    const set = settings.set("net.ipv6.conf.wlan0.accept_ra", "2");
    expect(await set.catch((thrown: unknown) => thrown)).toMatchObject({ code: "sysctl-refused" });
    expect(journal.entries()).toEqual([]);
    expect(await settings.read("net.ipv6.conf.wlan0.accept_ra")).toBeNull();
  });

  test("forgets the entry when the write is refused", async () => {
    rmSync(join(rootDir, sysctlFile(FORWARD)));
    mkdirSync(join(rootDir, sysctlFile(FORWARD)));
    const { journal, sysctl: settings } = sysctl();
    expect(await settings.set(FORWARD, "1").catch((thrown: unknown) => thrown)).toBeInstanceOf(SysctlRefused);
    expect(journal.entries()).toEqual([]);
  });

  test("restore() puts everything back in reverse and is harmless twice", async () => {
    const { journal, sysctl: settings } = sysctl();
    await settings.set(ACCEPT_RA, "2");
    await settings.set(FORWARD, "1");
    expect(await settings.restore()).toEqual([
      `Put the kernel setting ${FORWARD} back to 0.`,
      `Put the kernel setting ${ACCEPT_RA} back to 1.`,
    ]);
    expect([read(FORWARD), read(ACCEPT_RA)]).toEqual(["0", "1"]);
    expect(journal.entries()).toEqual([]);
    expect(await settings.restore()).toEqual([]);
  });

  test("restore() after a kill between journal and write finds nothing to do", async () => {
    const { journal, sysctl: settings } = sysctl([{ kind: "sysctl", key: FORWARD, before: "0", ours: "1" }]);
    expect(await settings.restore()).toEqual([]);
    expect(journal.entries()).toEqual([]);
  });

  test("restore() leaves what somebody else has set since", async () => {
    const { journal, sysctl: settings } = sysctl([{ kind: "sysctl", key: FORWARD, before: "0", ours: "2" }]);
    write(FORWARD, "1");
    expect(await settings.restore()).toEqual([`Left the kernel setting ${FORWARD} at 1: somebody else set it.`]);
    expect(read(FORWARD)).toBe("1");
    expect(journal.entries()).toEqual([]);
  });

  test("bug: restore() failed at an interface that went away between its look and its writing", async () => {
    const { journal } = sysctl([{ kind: "sysctl", key: ACCEPT_RA, before: "1", ours: "2" }]);
    write(ACCEPT_RA, "2");
    const log = {
      ...silentLogger,
      info: () => rmSync(dirname(join(rootDir, sysctlFile(ACCEPT_RA))), { recursive: true }),
    };
    expect(await linuxSysctl({ journal, log, rootDir }).restore()).toEqual([]);
    expect(journal.entries()).toEqual([]);
  });

  test("restore() forgets an interface that went away", async () => {
    const { journal, sysctl: settings } = sysctl([
      { kind: "sysctl", key: "net.ipv6.conf.usb0.accept_ra", before: "1", ours: "2" },
    ]);
    expect(await settings.restore()).toEqual([]);
    expect(journal.entries()).toEqual([]);
  });

  test("restore() keeps what it cannot put back, and goes on with the rest", async () => {
    const { journal, sysctl: settings } = sysctl();
    await settings.set(ACCEPT_RA, "2");
    await settings.set(FORWARD, "1");
    rmSync(join(rootDir, sysctlFile(FORWARD)));
    mkdirSync(join(rootDir, sysctlFile(FORWARD)));
    const sentences = await settings.restore();
    expect(sentences[0]).toStartWith(`Could not put the kernel setting ${FORWARD} back to 0:`);
    expect(read(ACCEPT_RA)).toBe("1");
    expect(journal.printed()).toBe(FORWARD);
  });
});
