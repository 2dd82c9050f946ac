// Tests of the WireGuard device on Linux against a machine in memory that prints its whole state.
import { describe, expect, test } from "bun:test";
import { HiggsError } from "../../../../src/base/errors.ts";
import type { Cidr, IpAddress } from "../../../../src/base/ip.ts";
import { silentLogger } from "../../../../src/base/log.ts";
import type { WireGuardConfig, WireGuardPeer } from "../../../../src/net/wg/device.ts";
import { linuxWireGuard, type LinuxWireGuardDeps, removeWireGuardDevice } from "../../../../src/net/wg/linux.ts";
import type { WireGuardKey } from "../../../../src/proto/keys.ts";
import { newWireGuardSecret } from "../../../../src/proto/keys.ts";
import { WIREGUARD_KEY, WIREGUARD_SECRET } from "../../support/keys.ts";
import { memoryJournal } from "../memory-journal.ts";
import { FakeMachine, type FakeMachineOptions } from "./fake-machine.ts";

const GO = "/usr/bin/wireguard-go";
const A = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=" as WireGuardKey;
const B = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAI=" as WireGuardKey;
const signal = new AbortController().signal;

function peer(publicKey: WireGuardKey, more: Partial<WireGuardPeer> = {}): WireGuardPeer {
  return {
    publicKey,
    endpoint: { address: "203.0.113.7" as IpAddress, port: 51820 },
    allowedIps: ["10.64.0.1/32" as Cidr],
    keepaliveS: 25,
    ...more,
  };
}

function config(more: Partial<WireGuardConfig> = {}): WireGuardConfig {
  const addresses = ["10.64.0.2" as IpAddress, "fd64::2" as IpAddress];
  return { privateKey: WIREGUARD_SECRET, listenPort: 51820, addresses, mtu: 1400, peers: [peer(A)], ...more };
}

function device(options: FakeMachineOptions = {}, more: Partial<LinuxWireGuardDeps> = {}) {
  const machine = new FakeMachine(options);
  const journal = memoryJournal();
  const deps = { exec: machine, host: machine.host, journal, log: silentLogger, carried: null, ...more };
  const make = () => linuxWireGuard({ ...deps, identifiers: { interface: "higgs0", mark: 0x68000 } });
  return { machine, journal, wireGuard: make(), another: make };
}

async function refusal(promise: Promise<unknown>): Promise<HiggsError> {
  try {
    await promise;
  } catch (thrown) {
    if (thrown instanceof HiggsError) return thrown;
    throw thrown;
  }
  throw new Error("it was not refused");
}

const WHOLE = `higgs0 tun mtu 1400 up genmode none
  address 10.64.0.2/32
  address fd64::2/128
  key ${WIREGUARD_KEY} port 51820 mark 0x68000
  peer ${A} at 203.0.113.7:51820 allowed 10.64.0.1/32 keepalive 25
process ${GO} higgs0
socket higgs0 answers
`;

describe("linuxWireGuard() apply", () => {
  test("makes a device by the wireguard-go on PATH where kernel and executable have none", async () => {
    const { machine, journal, wireGuard } = device({ wireguardGoOnPath: GO });
    await wireGuard.apply(config(), signal);
    expect(machine.printed()).toBe(WHOLE);
    expect(wireGuard.implementation()).toEqual({ kind: "path", path: GO, version: "0.0.20220316" });
    expect(journal.printed()).toBe("wireguard-device");
  });

  test("takes the kernel's WireGuard first", async () => {
    const { machine, wireGuard } = device({ hasKernelWireGuard: true, wireguardGoOnPath: GO });
    await wireGuard.apply(config(), signal);
    expect(wireGuard.implementation()).toEqual({ kind: "kernel" });
    expect(machine.printed()).toBe(WHOLE.replace(" tun ", " wireguard ").replace(/process[^]*/, ""));
  });

  test("writes nothing when everything is as wanted", async () => {
    const { machine, wireGuard, another } = device({ wireguardGoOnPath: GO });
    await wireGuard.apply(config(), signal);
    machine.takeChanges();
    await wireGuard.apply(config(), signal);
    await another().apply(config(), signal);
    expect(machine.takeChanges()).toEqual([]);
  });

  test("takes over a living device and leaves unchanged peers alone", async () => {
    const { machine, wireGuard, another } = device({ wireguardGoOnPath: GO });
    const kept = peer(A);
    await wireGuard.apply(config({ peers: [kept, peer(B, { allowedIps: ["10.64.0.3/32" as Cidr] })] }), signal);
    machine.peer("higgs0", A).handshakeS = Math.floor(Date.now() / 1000);
    machine.takeChanges();
    const next = another();
    await next.apply(config({ mtu: 1380, peers: [kept] }), signal);
    expect(machine.takeChanges()).toEqual(["batch: link set dev higgs0 mtu 1380", `wg set higgs0 peer ${B} remove`]);
    expect(next.implementation()).toEqual({ kind: "path", path: GO, version: "0.0.20220316" });
  });

  test("makes the device again after its wireguard-go was killed, and removes the socket that was left", async () => {
    const { machine, wireGuard } = device({ wireguardGoOnPath: GO });
    await wireGuard.apply(config(), signal);
    machine.killServer("higgs0");
    await wireGuard.apply(config(), signal);
    expect(machine.printed()).toBe(WHOLE);
  });

  test("never puts the private key into an argument", async () => {
    const { machine, wireGuard } = device({ wireguardGoOnPath: GO });
    await wireGuard.apply(config(), signal);
    await wireGuard.apply(config({ privateKey: newWireGuardSecret() }), signal);
    expect(machine.commands.join("\n")).toContain("wg set higgs0 private-key /proc/self/fd/0");
    expect(machine.commands.join("\n")).not.toContain(WIREGUARD_SECRET);
  });

  test("moves to new addresses, port and key on a living device", async () => {
    const { machine, wireGuard } = device({ wireguardGoOnPath: GO });
    await wireGuard.apply(config({ addresses: ["10.64.0.9" as IpAddress], listenPort: 40000, peers: [] }), signal);
    await wireGuard.apply(config(), signal);
    expect(machine.printed()).toBe(WHOLE);
  });

  test("leaves IPv6 addresses out on a machine without IPv6", async () => {
    const { machine, wireGuard } = device({ wireguardGoOnPath: GO, hasIpv6: false });
    await wireGuard.apply(config(), signal);
    expect(machine.printed()).toContain("address 10.64.0.2/32");
    expect(machine.printed()).not.toContain("fd64::2");
  });

  test("refuses a port that another program has, and leaves nothing behind", async () => {
    const { machine, wireGuard } = device({ wireguardGoOnPath: GO, busyPorts: [51820] });
    expect(await refusal(wireGuard.apply(config(), signal))).toMatchObject({
      code: "port-busy",
      detail: { port: 51820 },
    });
    expect(machine.printed()).toBe("\n");
    expect(wireGuard.implementation()).toBeNull();
  });

  for (const step of [/addrgenmode/, /mtu 1400/, /addr add 10/, /^wg set/, / up$/]) {
    test(`leaves nothing behind when ${step} fails on a new device`, async () => {
      const { machine, journal, wireGuard } = device({ wireguardGoOnPath: GO, failAt: step });
      await refusal(wireGuard.apply(config(), signal));
      expect(machine.printed()).toBe("\n");
      expect(journal.printed()).toBe("");
    });
  }

  test("refuses an interface of our name that is no WireGuard, and does not touch it", async () => {
    const { machine, wireGuard } = device({ wireguardGoOnPath: GO });
    machine.addLink("higgs0", "dummy");
    const before = machine.printed();
    const thrown = await refusal(wireGuard.apply(config(), signal));
    expect(thrown).toMatchObject({ code: "interface-taken" });
    expect(thrown.remedy).toContain("ip link del higgs0");
    expect(machine.printed()).toBe(before);
  });

  test("makes the device anew where one goes whose wireguard-go was just killed", async () => {
    const { machine, wireGuard } = device({ wireguardGoOnPath: GO });
    machine.addLink("higgs0", "tun");
    machine.sockets.set("higgs0", "stale");
    setTimeout(() => machine.killServer("higgs0"), 30);
    await wireGuard.apply(config(), signal);
    expect(machine.printed()).toBe(WHOLE);
  });

  test("refuses when a wireguard-go of another network serves our name", async () => {
    const { machine, wireGuard } = device({ wireguardGoOnPath: GO });
    machine.sockets.set("higgs0", "answers");
    expect(await refusal(wireGuard.apply(config(), signal))).toMatchObject({ code: "interface-taken" });
  });

  test("says for each WireGuard why it cannot be had", async () => {
    const { wireGuard } = device();
    const thrown = await refusal(wireGuard.apply(config(), signal));
    expect(thrown).toMatchObject({ code: "wireguard-unavailable" });
    expect(thrown.message).toBe(
      "Cannot make a WireGuard tunnel: the kernel has no WireGuard; this executable carries no wireguard-go; there is no wireguard-go on PATH.",
    );
    expect(thrown.remedy).toContain("wireguard-go");
  });

  test("uses only the implementation that was asked for by name", async () => {
    const { machine, wireGuard } = device({ hasKernelWireGuard: true, wireguardGoOnPath: GO }, { only: "path" });
    await wireGuard.apply(config(), signal);
    expect(machine.printed()).toBe(WHOLE);
    const carriedOnly = device({ hasKernelWireGuard: true, wireguardGoOnPath: GO }, { only: "carried" });
    expect(await refusal(carriedOnly.wireGuard.apply(config(), signal))).toMatchObject({
      code: "wireguard-unavailable",
    });
  });

  test("replaces a living device by the implementation that was asked for", async () => {
    const { machine, wireGuard } = device({ hasKernelWireGuard: true, wireguardGoOnPath: GO }, { only: "path" });
    machine.addLink("higgs0", "wireguard");
    await wireGuard.apply(config(), signal);
    expect(machine.printed()).toBe(WHOLE);
  });

  test("asks the kernel once whether it has WireGuard", async () => {
    const { machine, wireGuard } = device({ wireguardGoOnPath: GO });
    await wireGuard.apply(config(), signal);
    await wireGuard.reset(signal);
    await wireGuard.apply(config(), signal);
    expect(machine.commands.filter((command) => command.includes("type wireguard"))).toHaveLength(1);
  });

  test("refuses an MTU below 1280", async () => {
    const { machine, wireGuard } = device({ wireguardGoOnPath: GO });
    expect(await refusal(wireGuard.apply(config({ mtu: 1279 }), signal))).toMatchObject({ code: "wireguard-failed" });
    expect(machine.takeChanges()).toEqual([]);
  });
});

describe("linuxWireGuard() peers", () => {
  test("setPeer() adds one peer and leaves the others", async () => {
    const { machine, wireGuard } = device({ wireguardGoOnPath: GO });
    await wireGuard.apply(config(), signal);
    machine.takeChanges();
    await wireGuard.setPeer(peer(B, { endpoint: null, allowedIps: ["10.64.0.3/32" as Cidr], keepaliveS: 0 }), signal);
    expect(machine.takeChanges()).toEqual([`wg set higgs0 peer ${B} persistent-keepalive 0 allowed-ips 10.64.0.3/32`]);
  });

  test("setPeer() makes a peer without a living session anew when its endpoint changes, so that it shakes hands at once", async () => {
    const { machine, wireGuard } = device({ wireguardGoOnPath: GO });
    await wireGuard.apply(config({ peers: [peer(A, { endpoint: null })] }), signal);
    const before = machine.peer("higgs0", A).birth;
    await wireGuard.setPeer(peer(A), signal);
    expect(machine.peer("higgs0", A).birth).toBeGreaterThan(before);
    expect(machine.printed()).toBe(WHOLE);
  });

  test("setPeer() keeps the session of a living peer whose endpoint changes", async () => {
    const { machine, wireGuard } = device({ wireguardGoOnPath: GO });
    await wireGuard.apply(config(), signal);
    const { birth } = machine.peer("higgs0", A);
    machine.peer("higgs0", A).handshakeS = Math.floor(Date.now() / 1000) - 100;
    const endpoint = { address: "2001:db8::7" as IpAddress, port: 4000 };
    await wireGuard.setPeer(peer(A, { endpoint }), signal);
    expect(machine.peer("higgs0", A)).toMatchObject({ birth, endpoint: "[2001:db8::7]:4000" });
  });

  test("removePeer() is harmless for a peer that is not there", async () => {
    const { machine, wireGuard } = device({ wireguardGoOnPath: GO });
    await wireGuard.apply(config(), signal);
    await wireGuard.removePeer(B, signal);
    expect(machine.printed()).toBe(WHOLE);
  });

  test("stats() tells each peer's traffic without its keys or prefixes", async () => {
    const { machine, wireGuard } = device({ wireguardGoOnPath: GO });
    await wireGuard.apply(config(), signal);
    machine.peer("higgs0", A).handshakeS = 1_795_000_000;
    const endpoint = { address: "203.0.113.7" as IpAddress, port: 51820 };
    expect(await wireGuard.stats(signal)).toEqual([
      { publicKey: A, endpoint, lastHandshakeMs: 1_795_000_000_000, rxBytes: 0, txBytes: 0 },
    ]);
  });

  test("stats() fails by its own error when there is no device", async () => {
    const { wireGuard } = device();
    expect(await refusal(wireGuard.stats(signal))).toMatchObject({ code: "wireguard-failed" });
  });
});

describe("linuxWireGuard() reset", () => {
  test("removes the device, whoever made it, and is harmless twice", async () => {
    const { machine, journal, wireGuard, another } = device({ wireguardGoOnPath: GO });
    await wireGuard.apply(config(), signal);
    await another().reset(signal);
    await another().reset(signal);
    expect(machine.printed()).toBe("\n");
    expect(journal.printed()).toBe("");
  });

  test("removes the socket that a killed wireguard-go left", async () => {
    const { machine, wireGuard } = device({ wireguardGoOnPath: GO });
    await wireGuard.apply(config(), signal);
    machine.killServer("higgs0");
    await wireGuard.reset(signal);
    expect(machine.printed()).toBe("\n");
  });

  test("is done when the device goes by itself at the same moment, as its wireguard-go was killed", async () => {
    const { machine, journal, wireGuard } = device({ wireguardGoOnPath: GO, failAt: /link del/ });
    await wireGuard.apply(config(), signal);
    const run = machine.run.bind(machine);
    machine.run = async (argv, options) => {
      const answer = await run(argv, options);
      if (options?.stdin?.startsWith("link del") === true) machine.killServer("higgs0");
      return answer;
    };
    await wireGuard.reset(signal);
    expect(machine.printed()).toBe("\n");
    expect(journal.printed()).toBe("");
  });

  test("waits for a wireguard-go that is dying, and takes its socket away", async () => {
    const { machine, wireGuard } = device({ wireguardGoOnPath: GO });
    await wireGuard.apply(config(), signal);
    machine.processes.delete("higgs0");
    machine.sockets.set("higgs0", "stale"); // interface and socket are there until its last thread is gone
    setTimeout(() => machine.killServer("higgs0"), 30);
    await wireGuard.reset(signal);
    expect(machine.printed()).toBe("\n");
  });

  test("leaves an interface of our name that is no WireGuard", async () => {
    const { machine, wireGuard } = device();
    machine.addLink("higgs0", "dummy");
    await wireGuard.reset(signal);
    expect(machine.links.has("higgs0")).toBeTrue();
  });

  for (const state of ["with", "without"] as const) {
    test(`bug: a wireguard-go that hangs kept its name, ${state} its interface, and no next one came up`, async () => {
      const { machine, wireGuard } = device({ wireguardGoOnPath: GO });
      await wireGuard.apply(config(), signal);
      machine.hangs = true;
      if (state === "without") machine.links.delete("higgs0");
      const at = { exec: machine, host: machine.host, identifiers: { interface: "higgs0" }, log: silentLogger };
      expect(await removeWireGuardDevice(at, signal)).toBeTrue();
      expect(machine.printed()).toBe("\n");
    }, 10_000);
  }

  test("removes a device whose wireguard-go hangs, by its process", async () => {
    const { machine, wireGuard } = device({ wireguardGoOnPath: GO });
    await wireGuard.apply(config(), signal);
    machine.sockets.set("higgs0", "stale");
    const removed = removeWireGuardDevice(
      { exec: machine, host: machine.host, identifiers: { interface: "higgs0" }, log: silentLogger },
      signal,
    );
    expect(await removed).toBeTrue();
    expect(machine.printed()).toBe("\n");
  });
});
