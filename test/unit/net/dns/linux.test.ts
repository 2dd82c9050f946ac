// systemd-resolved on the link, resolv.conf, and the choice between them.
import { afterEach, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { silentLogger } from "../../../../src/base/log.ts";
import { DnsRefused } from "../../../../src/net/dns/errors.ts";
import { asksResolved, linuxDns } from "../../../../src/net/dns/linux.ts";
import { resolvConfText } from "../../../../src/net/dns/resolv-conf-text.ts";
import { resolvedDns, revertResolved } from "../../../../src/net/dns/resolved.ts";
import type { DnsPolicy } from "../../../../src/net/dns/system-dns.ts";
import { IDENTIFIERS } from "../../../../src/net/identifiers.ts";
import { ip } from "../firewall/exit-policy.ts";
import { memoryJournal } from "../memory-journal.ts";
import { FakeResolvectl } from "./fake-resolvectl.ts";

const { signal } = new AbortController();
const POLICY: DnsPolicy = {
  interface: "higgs0",
  servers: [ip("10.83.0.1"), ip("fd83:1:2::1")],
  searchDomains: ["home.example"],
};
const WHOLE = "dns: 10.83.0.1 fd83:1:2::1\ndomain: ~. home.example\ndefault-route: yes";
const STUB = "# systemd-resolved\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n";

const made: string[] = [];
afterEach(() => {
  for (const dir of made.splice(0)) rmSync(dir, { recursive: true });
});

function machine(resolvConf: string, target = "real.conf") {
  const stateDir = mkdtempSync(join(tmpdir(), "higgs-dns-"));
  made.push(stateDir);
  const resolvConfPath = join(stateDir, "resolv.conf");
  mkdirSync(dirname(join(stateDir, target)), { recursive: true });
  writeFileSync(join(stateDir, target), resolvConf);
  symlinkSync(target, resolvConfPath);
  const exec = new FakeResolvectl();
  const journal = memoryJournal();
  const deps = { exec, journal, identifiers: IDENTIFIERS.client, log: silentLogger, stateDir, resolvConfPath };
  return { exec, journal, deps, read: () => readFileSync(resolvConfPath, "utf8") };
}

describe("resolvedDns()", () => {
  test("sends every name to the tunnel's link, once, and takes it back", async () => {
    const { exec, journal, deps } = machine(STUB);
    const dns = resolvedDns(deps);
    await dns.apply(POLICY, signal);
    expect(exec.printed()).toBe(WHOLE);
    expect(journal.printed()).toBe("resolved-link");
    expect(exec.written.length).toBe(3);
    await dns.apply(POLICY, signal);
    expect(exec.written.length).toBe(3);
    exec.settings.set("domain", "lan");
    await dns.apply(POLICY, signal);
    expect(exec.written.slice(3)).toEqual(["domain higgs0 ~. home.example"]);
    await dns.reset(signal);
    await dns.reset(signal);
    expect(exec.printed() + journal.printed()).toBe("");
  });

  // A café that hands out the domain "com" had every name in it asked of its own server, past the tunnel.
  test("claims the names that another link claims, and no more than that", async () => {
    const { exec, deps } = machine(STUB);
    exec.elsewhere = "home.example ~corp.example com $(reboot) -- .";
    const dns = resolvedDns(deps);
    await dns.apply(POLICY, signal);
    expect(exec.settings.get("domain")).toBe("~. home.example ~com ~corp.example");
    expect(exec.written.length).toBe(3);
    await dns.apply(POLICY, signal);
    expect(exec.written.length).toBe(3);
    exec.elsewhere = "";
    await dns.apply(POLICY, signal);
    expect(exec.settings.get("domain")).toBe("~. home.example");
  });

  test("leaves nothing half done when it is refused", async () => {
    const { exec, journal, deps } = machine(STUB);
    exec.refuses = "domain";
    const thrown = await resolvedDns(deps)
      .apply(POLICY, signal)
      .catch((error: unknown) => error);
    expect(thrown).toBeInstanceOf(DnsRefused);
    expect(exec.printed() + journal.printed()).toBe("");
  });

  test("is taken back without a resolved too", async () => {
    const { exec } = machine(STUB);
    exec.state = "absent";
    expect(await revertResolved(exec, IDENTIFIERS.client, signal)).toBe(false);
    exec.state = "stopped";
    expect(await revertResolved(exec, IDENTIFIERS.client, signal)).toBe(false);
  });
});

describe("linuxDns()", () => {
  test("asks resolved alone where resolv.conf sends everybody there", async () => {
    const { exec, deps, read } = machine(STUB);
    const dns = linuxDns(deps);
    await dns.apply(POLICY, signal);
    expect(exec.printed()).toBe(WHOLE);
    expect(read()).toBe(STUB);
    await dns.reset(signal);
    expect(exec.printed()).toBe("");
  });

  // Only the process itself knows that resolved's stub was there: the file was never ours.
  test("leaves a file that a person put in the stub's place, and says whom it names", async () => {
    const { exec, deps, read } = machine(STUB);
    const dns = linuxDns(deps);
    await dns.apply(POLICY, signal);
    expect(await dns.foreign(POLICY)).toBeNull();
    writeFileSync(deps.resolvConfPath, "nameserver 9.9.9.9\n");
    await dns.apply(POLICY, signal);
    expect(read()).toBe("nameserver 9.9.9.9\n");
    expect(await dns.foreign(POLICY)).toEqual(["9.9.9.9"]);
    await dns.reset(signal);
    await dns.apply(POLICY, signal);
    expect(read()).toBe(resolvConfText(POLICY));
    expect(await dns.foreign(POLICY)).toBeNull();
    await dns.reset(signal);
    expect(read()).toBe("nameserver 9.9.9.9\n");
    expect(exec.printed()).toBe("");
  });

  test("sets both where resolved runs and resolv.conf goes past it", async () => {
    const { exec, deps, read } = machine("nameserver 192.168.7.1\n");
    const dns = linuxDns(deps);
    await dns.apply(POLICY, signal);
    await dns.apply(POLICY, signal);
    expect(exec.printed()).toBe(WHOLE);
    expect(read()).toBe(resolvConfText(POLICY));
    await dns.reset(signal);
    expect(exec.printed()).toBe("");
    expect(read()).toBe("nameserver 192.168.7.1\n");
  });

  // Until this, resolved went on asking the tunnel's servers after down, past the tunnel.
  test("lets resolved read a file without servers before its own takes the place of ours", async () => {
    const uplinks = "nameserver 192.168.7.1\n";
    const { exec, journal, deps, read } = machine(uplinks, "systemd/resolve/resolv.conf");
    const dns = linuxDns(deps);
    await dns.apply(POLICY, signal);
    expect(read()).toBe(resolvConfText(POLICY));
    const readByResolved: string[] = [];
    exec.onQuery = () => readByResolved.push(read());
    await dns.reset(signal);
    expect(readByResolved.length).toBe(1);
    expect(readByResolved[0]).toMatch(/^# Written by higgs .*\n\n$/);
    expect(read() + journal.printed() + exec.printed()).toBe(uplinks);
  });

  test("waits for a resolved that is just starting anew, and writes no file meanwhile", async () => {
    const { exec, deps, read } = machine(STUB);
    exec.unsettled.push("deactivating", "activating");
    await linuxDns(deps).apply(POLICY, signal);
    expect(exec.printed()).toBe(WHOLE);
    expect(read()).toBe(STUB);
  });

  for (const state of ["stopped", "absent"] as const) {
    test(`writes resolv.conf where resolved is ${state}`, async () => {
      const { exec, journal, deps, read } = machine(STUB);
      exec.state = state;
      const dns = linuxDns(deps);
      await dns.apply(POLICY, signal);
      expect(exec.printed()).toBe("");
      expect(read()).toBe(resolvConfText(POLICY));
      expect(journal.printed()).toBe("resolv-conf");
      await dns.reset(signal);
      expect(read() + journal.printed()).toBe(STUB);
    });
  }
});

describe("asksResolved()", () => {
  test("wants every server to be resolved's own", () => {
    const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
    expect(asksResolved(bytes(STUB))).toBe(true);
    expect(asksResolved(bytes(`${STUB}nameserver 192.168.7.1\n`))).toBe(false);
    expect(asksResolved(bytes("#nameserver 127.0.0.53\n"))).toBe(false);
    expect(asksResolved(Uint8Array.of(0xff))).toBe(false);
    expect(asksResolved(null)).toBe(false);
  });
});
