// What a role changes beside its tunnel, on a real machine: links watched, settings put back, the carried program kept from others.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import type { Cidr, IpAddress } from "../../src/base/ip.ts";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import type { Links } from "../../src/net/links.ts";
import { newWireGuardSecret } from "../../src/proto/keys.ts";
import { snapshot, until } from "./harness.ts";
import { drive, driveInBackground, driveOrThrow, startTwoMachines } from "./net-machines.ts";

const START_MS = 60_000;
let lab: Lab;
let host: LabHost;
beforeAll(async () => {
  lab = await startTwoMachines();
  host = lab.host("left");
}, START_MS);
afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
});

describe("watchLinks()", () => {
  const changes = (lines: readonly string[]): number => lines.filter((line) => line === "change").length;

  test("tells of links, addresses, routes and rules that change, and leaves no process behind", async () => {
    await using watching = await driveInBackground(host, { do: "watch" });
    await watching.waitForLine(/^change$/);
    for (const command of [
      "ip link add watched0 type veth peer name watched1",
      "ip addr add 10.9.0.1/24 dev watched0",
      "ip link set watched0 up",
      "ip route add 10.8.0.0/16 dev watched0",
      "ip rule add pref 9000 lookup main",
      "ip rule del pref 9000",
      "ip link del watched0",
    ]) {
      const told = changes(watching.lines);
      await host.execOrThrow(command.split(" "));
      await until(() => changes(watching.lines) > told, { what: command });
    }
    watching.kill("SIGTERM");
    expect(await watching.exited).toBe(0);
    await until(async () => (await host.exec(["pgrep", "-f", "ip monitor"])).code === 1, { what: "the monitor's end" });
  });

  test("goes on after its monitor was killed", async () => {
    await using watching = await driveInBackground(host, { do: "watch" });
    await watching.waitForLine(/^change$/);
    await host.execOrThrow(["pkill", "-KILL", "-f", "ip monitor"]);
    await until(async () => (await host.exec(["pgrep", "-f", "ip monitor"])).code === 0);
    await until(() => changes(watching.lines) >= 2);
    const told = changes(watching.lines);
    await until(async () => {
      await host.execOrThrow(["ip", "addr", "replace", "10.9.0.1/24", "dev", "eth0"]);
      return changes(watching.lines) > told;
    });
    await host.execOrThrow(["ip", "addr", "del", "10.9.0.1/24", "dev", "eth0"]);
    watching.kill("SIGTERM");
    expect(await watching.exited).toBe(0);
  });
});

describe("readLinks()", () => {
  test("reads a real machine", async () => {
    const links = await driveOrThrow<Links>(host, { do: "links" });
    expect(links.uplinks).toEqual([{ interface: "eth0", family: 4, gateway: "10.0.0.254" as IpAddress, metric: 0 }]);
    expect(links.connected).toEqual([
      { interface: "eth0", prefix: "10.0.0.0/24" as Cidr },
      { interface: "eth0", prefix: "2001:db8::/64" as Cidr },
    ]);
    expect(links.addresses.filter((one) => one.scope === "global").map((one) => one.address)).toEqual([
      "10.0.0.1" as IpAddress,
      "2001:db8::1" as IpAddress,
    ]);
  });
});

describe("undoAll()", () => {
  test("puts settings and the device back, also without the journal's help, and says so", async () => {
    await driveOrThrow(host, { do: "undo" });
    const before = await snapshot(host);
    const config = { privateKey: newWireGuardSecret(), listenPort: 40000, mtu: 1420, peers: [] };
    const addresses = ["10.64.0.1" as IpAddress];
    await driveOrThrow(host, { do: "sysctl", key: "net.ipv4.ip_forward", value: "1" });
    await driveOrThrow(host, { do: "sysctl", key: "net.ipv6.conf.eth0.accept_ra", value: "2" });
    await driveOrThrow(host, { do: "apply", config: { ...config, addresses } });
    expect(await driveOrThrow<string[]>(host, { do: "undo" })).toEqual([
      "Removed the WireGuard device higgs0.",
      "Put the kernel setting net.ipv6.conf.eth0.accept_ra back to 1.",
      "Put the kernel setting net.ipv4.ip_forward back to 0.",
    ]);
    // The carried wireguard-go stays where it was unpacked.
    const settled = (text: string): string => text.replaceAll(/^\/var\/lib\/higgs\/libexec\/.*\n/gm, "");
    expect(settled(await snapshot(host))).toBe(settled(before));
    expect(await driveOrThrow<string[]>(host, { do: "undo" })).toEqual([]);

    await driveOrThrow(host, { do: "apply", config: { ...config, addresses } });
    await host.execOrThrow(["rm", "/var/lib/higgs-client/journal.json"]);
    expect(await driveOrThrow<string[]>(host, { do: "undo" })).toEqual(["Removed the WireGuard device higgs0."]);
    expect(settled(await snapshot(host))).toBe(settled(before));
  }, 60_000);

  test("leaves another role's device alone", async () => {
    const config = { privateKey: newWireGuardSecret(), listenPort: 40001, mtu: 1420, peers: [], addresses: [] };
    await driveOrThrow(host, { do: "apply", config }, { role: "node" });
    expect(await driveOrThrow<string[]>(host, { do: "undo" }, { role: "client" })).toEqual([]);
    expect(await host.execOrThrow(["wg", "show", "higgsn0", "listen-port"])).toBe("40001\n");
    expect(await host.execOrThrow(["wg", "show", "higgsn0", "fwmark"])).toBe("0x69000\n");
    await driveOrThrow(host, { do: "undo" }, { role: "node" });
    expect((await host.exec(["ip", "link", "show", "higgsn0"])).code).toBe(1);
  });
});

describe("unpackedCarried()", () => {
  const DIR = "/var/lib/higgs-test/libexec";
  const PROGRAM = "#!/bin/sh\necho carried\n";
  const sha256 = createHash("sha256").update(PROGRAM).digest("hex");
  const carried = { gzPath: "/var/lib/carried.gz", sha256 };
  const path = `${DIR}/wireguard-go-${sha256.slice(0, 12)}`;

  beforeEach(async () => {
    await host.writeFile(carried.gzPath, Bun.gzipSync(PROGRAM));
  });
  afterEach(async () => {
    await host.execOrThrow(["rm", "-rf", "/var/lib/higgs-test", carried.gzPath]);
  });
  const unpack = (dir = DIR) => drive(host, { do: "unpack", carried, dir });
  const facts = async (): Promise<string> => (await host.execOrThrow(["stat", "-c", "%U %a", path, DIR])).trim();

  test("writes a program that only root may change, and leaves it alone the next time", async () => {
    expect(await unpack()).toEqual({ ok: path });
    expect(await facts()).toBe("root 755\nroot 755");
    expect(await host.execOrThrow([path])).toBe("carried\n");
    const inode = await host.execOrThrow(["stat", "-c", "%i", path]);
    expect(await unpack()).toEqual({ ok: path });
    expect(await host.execOrThrow(["stat", "-c", "%i", path])).toBe(inode);
  });

  for (const [what, tamper] of Object.entries({
    "was changed": ["sh", "-c", `echo 'echo evil' >> ${path}`],
    "belongs to somebody else": ["chown", "nobody", path],
    "may be written by others": ["chmod", "757", path],
    "was replaced by a link": ["sh", "-c", `mv ${path} /var/lib/higgs-test/evil; ln -s ../evil ${path}`],
  })) {
    test(`replaces a program that ${what}`, async () => {
      await unpack();
      await host.execOrThrow(tamper);
      expect(await unpack()).toEqual({ ok: path });
      expect(await facts()).toBe("root 755\nroot 755");
      expect(await host.execOrThrow([path])).toBe("carried\n");
    });
  }

  for (const [what, spoil] of Object.entries({
    "belongs to somebody else": ["chown", "nobody", "/var/lib/higgs-test"],
    "may be written by a group": ["chmod", "775", "/var/lib/higgs-test"],
    "may be written by all": ["chmod", "1777", DIR],
  })) {
    test(`refuses a folder that ${what}`, async () => {
      await unpack();
      await host.execOrThrow(spoil);
      expect(await unpack()).toMatchObject({ code: "carried-refused" });
    });
  }

  test("refuses a folder behind a link into somebody else's", async () => {
    await host.execOrThrow(["sh", "-c", `mkdir -p /var/lib/higgs-test; ln -s /tmp ${DIR}`]);
    expect(await unpack()).toMatchObject({ code: "carried-refused" });
    expect(await unpack("/tmp/libexec")).toMatchObject({ code: "carried-refused" });
    expect((await host.exec(["ls", "/tmp/libexec"])).code).not.toBe(0);
  });

  test("refuses what it carries when that is damaged", async () => {
    await host.writeFile(carried.gzPath, Bun.gzipSync("something else"));
    expect(await unpack()).toMatchObject({ code: "carried-refused" });
    expect((await host.exec(["ls", path])).code).not.toBe(0);
  });
});
