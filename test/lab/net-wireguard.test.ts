// The WireGuard device on real machines: made, taken over, killed at every step, and gone without a trace.
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { carried } from "higgs:carried-wireguard-go";
import type { Cidr, IpAddress } from "../../src/base/ip.ts";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import type {
  DeviceCounters,
  Implementation,
  PeerStats,
  WireGuardConfig,
  WireGuardPeer,
} from "../../src/net/wg/device.ts";
import { newWireGuardSecret, wireGuardKeyOf } from "../../src/proto/keys.ts";
import { snapshot, until } from "./harness.ts";
import type { DriverOptions } from "./net-driver.ts";
import { drive, driveOrThrow, startTwoMachines } from "./net-machines.ts";

const START_MS = 60_000;
const SLOW_MS = 120_000;
const NAME = "higgs0";
const LEFT_SECRET = newWireGuardSecret();
const RIGHT_SECRET = newWireGuardSecret();
const LEFT_KEY = wireGuardKeyOf(LEFT_SECRET);
const RIGHT_KEY = wireGuardKeyOf(RIGHT_SECRET);
const STRANGER_KEY = wireGuardKeyOf(newWireGuardSecret());
/** The one in userspace that this machine has: most of what follows is about a process that may die. */
const userspace: DriverOptions = { only: carried === null ? "path" : "carried" };

const rightPeer: WireGuardPeer = {
  publicKey: RIGHT_KEY,
  endpoint: { address: "10.0.0.2" as IpAddress, port: 51820 },
  allowedIps: ["10.64.0.2/32" as Cidr, "fd64::2/128" as Cidr],
  keepaliveS: 25,
};
const leftPeer: WireGuardPeer = {
  publicKey: LEFT_KEY,
  endpoint: null,
  allowedIps: ["10.64.0.1/32" as Cidr, "fd64::1/128" as Cidr],
  keepaliveS: 0,
};

function config(n: 1 | 2, more: Partial<WireGuardConfig> = {}): WireGuardConfig {
  return {
    privateKey: n === 1 ? LEFT_SECRET : RIGHT_SECRET,
    listenPort: 51820,
    addresses: [`10.64.0.${n}` as IpAddress, `fd64::${n}` as IpAddress],
    mtu: 1420,
    peers: [n === 1 ? rightPeer : leftPeer],
    ...more,
  };
}

/** Stands before the real one in the search for tools, and writes down its arguments. */
const NOTING_WG = `#!/bin/sh
echo "wg $*" >> /tmp/wg.log
exec /usr/bin/wg "$@"
`;

let lab: Lab;
let left: LabHost;
let right: LabHost;
let before = { left: "", right: "" };

beforeAll(async () => {
  lab = await startTwoMachines();
  left = lab.host("left");
  right = lab.host("right");
  // The carried binary stays on a machine on purpose, and so does the state folder: they are there before the first look.
  for (const host of [left, right]) {
    await driveOrThrow(host, { do: "apply", config: config(1) }, userspace);
    await driveOrThrow(host, { do: "reset" });
    await host.execOrThrow([
      "sh",
      "-c",
      "for p in 10.0.0.1 10.0.0.2 2001:db8::1 2001:db8::2; do ping -c1 -W2 $p; done",
    ]);
  }
  before = { left: await snapshot(left), right: await snapshot(right) };
}, START_MS);
afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
});
beforeEach(async () => {
  await driveOrThrow(left, { do: "reset" });
  await driveOrThrow(right, { do: "reset" });
});

function routes(host: LabHost, n: 1 | 2): Promise<string> {
  const other = 3 - n;
  const batch = `route replace 10.64.0.${other}/32 dev ${NAME}\nroute replace fd64::${other}/128 dev ${NAME}\n`;
  return host.execOrThrow(["ip", "-batch", "-"], { stdin: batch });
}

async function connect(options: DriverOptions = userspace): Promise<void> {
  await driveOrThrow(right, { do: "apply", config: config(2) }, options);
  await driveOrThrow(left, { do: "apply", config: config(1) }, options);
  await Promise.all([routes(left, 1), routes(right, 2)]);
}

async function ping(address = "10.64.0.2"): Promise<boolean> {
  return (await left.exec(["ping", "-c", "1", "-W", "5", address])).code === 0;
}

async function stats(host: LabHost): Promise<readonly PeerStats[]> {
  return await driveOrThrow<readonly PeerStats[]>(host, { do: "stats" });
}

async function daemonPid(host: LabHost): Promise<number> {
  const pids = (await host.execOrThrow(["pgrep", "-f", `wireguard-go.* ${NAME}$`])).trim().split("\n");
  expect(pids).toHaveLength(1);
  return Number(pids[0]);
}

async function killDaemon(host: LabHost): Promise<void> {
  await host.execOrThrow(["kill", "-KILL", String(await daemonPid(host))]);
  await until(async () => (await host.exec(["ip", "link", "show", NAME])).code !== 0);
}

describe("linuxWireGuard() apply", () => {
  test("makes a tunnel that carries both families, by whatever this machine has", async () => {
    await connect({});
    await until(() => ping());
    expect(await ping("fd64::2")).toBeTrue();
    expect((await stats(left))[0]).toMatchObject({ publicKey: RIGHT_KEY, endpoint: rightPeer.endpoint });
    const [peer] = await stats(right);
    expect(peer?.endpoint).toEqual({ address: "10.0.0.1" as IpAddress, port: 51820 });
    expect(peer?.rxBytes).toBeGreaterThan(0);
    const counters = await driveOrThrow<DeviceCounters>(left, { do: "counters" });
    expect(counters.rxPackets).toBeGreaterThanOrEqual(2);
    expect(counters.txBytes).toBeGreaterThanOrEqual(2 * 84);
  });

  test("marks WireGuard's socket and shows no link-local address in the tunnel", async () => {
    await connect();
    expect(await left.execOrThrow(["wg", "show", NAME, "fwmark"])).toBe("0x68000\n");
    const addresses = await left.execOrThrow(["ip", "-o", "addr", "show", "dev", NAME]);
    expect(addresses).toContain("10.64.0.1/32");
    expect(addresses).toContain("fd64::1/128");
    expect(addresses).not.toContain("fe80");
  });

  test("starts a wireguard-go that depends on nobody: own session, no pipe, no folder, no terminal", async () => {
    const made = await driveOrThrow<Implementation>(left, { do: "apply", config: config(1) }, userspace);
    expect(made.kind).toBe(userspace.only ?? "kernel");
    const pid = await daemonPid(left);
    const facts = await left.execOrThrow(["sh", "-c", `ls -l /proc/${pid}/fd; readlink /proc/${pid}/cwd`]);
    for (const n of [0, 1, 2]) expect(facts).toContain(` ${n} -> /dev/null\n`);
    // A pipe of its own has both ends here; one that was inherited has only one.
    const pipes = [...facts.matchAll(/pipe:\[\d+\]/g)].map((match) => match[0]);
    for (const pipe of pipes) expect(pipes.filter((one) => one === pipe)).toHaveLength(2);
    expect(facts.trim().split("\n").at(-1)).toBe("/");
    const sessions = await left.execOrThrow(["ps", "-o", "sid=,tty=,ppid=", "-p", String(pid)]);
    const [session, terminal, parent] = sessions.trim().split(/\s+/);
    expect(terminal).toBe("?");
    expect(parent).toBe("1");
    // Its session's leader was the first wireguard-go, which is over: no hangup can come from there.
    expect((await left.exec(["ps", "-p", session ?? ""])).code).not.toBe(0);
  });

  test(
    "takes a living device over without losing a packet",
    async () => {
      await connect();
      await until(() => ping());
      const pid = await daemonPid(left);
      const pinging = left.exec(["ping", "-i", "0.01", "-c", "150", "-q", "10.64.0.2"]);
      for (let n = 0; n < 3; n++) {
        const peers = n === 1 ? [rightPeer, { ...leftPeer, publicKey: STRANGER_KEY }] : [rightPeer];
        await driveOrThrow(left, { do: "apply", config: config(1, { mtu: 1400 + n, peers }) }, userspace);
      }
      expect((await pinging).stdout).toContain("150 packets transmitted, 150 received, 0% packet loss");
      expect(await daemonPid(left)).toBe(pid);
      expect((await stats(left)).map((peer) => peer.publicKey)).toEqual([RIGHT_KEY]);
    },
    SLOW_MS,
  );

  test("makes the tunnel anew after kill -9 of wireguard-go, with a handshake of its own accord", async () => {
    await connect();
    await until(() => ping());
    await killDaemon(left);
    expect((await left.exec(["test", "-S", `/var/run/wireguard/${NAME}.sock`])).code).toBe(0);
    await driveOrThrow(left, { do: "apply", config: config(1) }, userspace);
    await routes(left, 1);
    await until(async () => (await stats(left))[0]?.lastHandshakeMs ?? null);
    expect(await ping()).toBeTrue();
  });

  test("refuses an interface of its name that is somebody else's, and leaves it as it was", async () => {
    for (const make of [
      ["ip", "tuntap", "add", "dev", NAME, "mode", "tun"],
      ["ip", "link", "add", NAME, "type", "bridge"],
    ]) {
      await left.execOrThrow(make);
      const was = await left.execOrThrow(["ip", "-d", "link", "show", NAME]);
      expect(await drive(left, { do: "apply", config: config(1) })).toMatchObject({ code: "interface-taken" });
      expect(await drive(left, { do: "reset" })).toEqual({ ok: null });
      expect(await left.execOrThrow(["ip", "-d", "link", "show", NAME])).toBe(was);
      await left.execOrThrow(["ip", "link", "del", NAME]);
    }
    expect(await snapshot(left)).toBe(before.left);
  });

  test("names a busy port and leaves nothing behind", async () => {
    const holder = `require("node:dgram").createSocket("udp4").bind(51820, () => console.log("ready"))`;
    await using other = await left.spawn(["bun", "-e", holder]);
    await other.waitForLine(/^ready$/);
    const said = await drive(left, { do: "apply", config: config(1) }, userspace);
    expect(said).toMatchObject({ code: "port-busy" });
    expect((await left.exec(["ip", "link", "show", NAME])).code).not.toBe(0);
  });

  test("leaves the IPv6 address out where IPv6 is switched off", async () => {
    await left.execOrThrow(["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"]);
    try {
      await driveOrThrow(left, { do: "apply", config: config(1) }, userspace);
      const addresses = await left.execOrThrow(["ip", "-o", "addr", "show", "dev", NAME]);
      expect(addresses).toContain("10.64.0.1/32");
      expect(addresses).not.toContain("inet6");
    } finally {
      await left.execOrThrow(["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=0"]);
    }
  });
});

describe("linuxWireGuard() peers", () => {
  test("setPeer() with a better endpoint shakes hands at once, though an attempt was just made in vain", async () => {
    const nowhere = { ...rightPeer, endpoint: { address: "10.0.0.99" as IpAddress, port: 51820 } };
    await driveOrThrow(right, { do: "apply", config: config(2) }, userspace);
    await driveOrThrow(left, { do: "apply", config: config(1, { peers: [nowhere] }) }, userspace);
    await driveOrThrow(left, { do: "set-peer", peer: rightPeer });
    // Left alone, WireGuard tries again five seconds after the attempt in vain.
    await until(async () => (await stats(left))[0]?.lastHandshakeMs ?? null, { timeoutMs: 4_000 });
  });

  test(
    "adding and removing a peer leaves the session of another alone",
    async () => {
      await connect();
      await until(() => ping());
      const pinging = left.exec(["ping", "-i", "0.01", "-c", "100", "-q", "10.64.0.2"]);
      await driveOrThrow(left, { do: "set-peer", peer: { ...leftPeer, publicKey: STRANGER_KEY } });
      await driveOrThrow(left, { do: "remove-peer", publicKey: STRANGER_KEY });
      expect((await pinging).stdout).toContain("100 packets transmitted, 100 received, 0% packet loss");
      expect(await stats(left)).toHaveLength(1);
      await driveOrThrow(left, { do: "remove-peer", publicKey: RIGHT_KEY });
      expect(await ping()).toBeFalse();
    },
    SLOW_MS,
  );

  test("apply() shows the private key in no arguments", async () => {
    await left.writeFile("/usr/local/bin/wg", NOTING_WG);
    await left.execOrThrow(["chmod", "755", "/usr/local/bin/wg"]);
    try {
      await driveOrThrow(left, { do: "apply", config: config(1) }, userspace);
      await driveOrThrow(left, { do: "apply", config: config(1, { privateKey: RIGHT_SECRET }) }, userspace);
      const noted = await left.readFile("/tmp/wg.log");
      expect(noted.match(/^wg set higgs0 private-key \/proc\/self\/fd\/0/gm)).toHaveLength(2);
      expect(noted).not.toContain(LEFT_SECRET);
      expect(noted).not.toContain(RIGHT_SECRET);
      expect(await left.execOrThrow(["wg", "show", NAME, "private-key"])).toBe(`${RIGHT_SECRET}\n`);
    } finally {
      await left.execOrThrow(["rm", "-f", "/usr/local/bin/wg", "/tmp/wg.log"]);
    }
  });
});

describe("linuxWireGuard() reset", () => {
  test("leaves the machine as it was, twice over", async () => {
    await connect();
    await until(() => ping());
    await driveOrThrow(left, { do: "reset" });
    await driveOrThrow(left, { do: "reset" });
    expect(await snapshot(left)).toBe(before.left);
    await driveOrThrow(right, { do: "undo" });
    expect(await snapshot(right)).toBe(before.right);
  });
});

describe("a process that is killed at any step of apply()", () => {
  test(
    "is cleaned up after without a trace, or taken over by the next",
    async () => {
      let steps = 0;
      for (; ; steps++) {
        const order = { do: "apply", config: config(1) } as const;
        const said = await drive(left, order, { ...userspace, dieBefore: steps });
        if ("ok" in said) break;
        expect(said.code).toBe("killed");
        if (steps % 2 === 0) await driveOrThrow(left, order, userspace);
        await driveOrThrow(left, { do: "undo" });
        expect(await snapshot(left)).toBe(before.left);
      }
      expect(steps).toBeGreaterThan(5);
    },
    SLOW_MS,
  );
});
