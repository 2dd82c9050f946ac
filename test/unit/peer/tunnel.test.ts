// The tunnel over a device that fails when it is told to.
import { afterEach, expect, test } from "bun:test";
import { silentLogger } from "../../../src/base/log.ts";
import type { Cidr, Endpoint, IpAddress } from "../../../src/base/ip.ts";
import type { WireGuardDevice } from "../../../src/net/wg/device.ts";
import type { Paths } from "../../../src/peer/paths.ts";
import type { RelayLink } from "../../../src/peer/relay-link.ts";
import { openTunnel, type Tunnel, type TunnelPeer } from "../../../src/peer/tunnel.ts";
import { newWireGuardSecret, type WireGuardKey } from "../../../src/proto/keys.ts";
import { failureOf } from "../support/failure.ts";
import { somebody } from "./machines.ts";

const { signal } = new AbortController();
const open: Tunnel[] = [];
afterEach(async () => {
  for (const tunnel of open.splice(0)) await tunnel[Symbol.asyncDispose]();
});

const RELAY: RelayLink = {
  online: false,
  isUrgent: false,
  counters: { framesOut: 0, bytesOut: 0, framesIn: 0, bytesIn: 0, droppedOut: 0, droppedIn: 0 },
  send: () => undefined,
  attach: () => undefined,
  detach: () => undefined,
  probe: () => undefined,
  [Symbol.asyncDispose]: () => Promise.resolve(),
};

/** What a device has of its peers; each key of `refuses` cannot be set. */
class FakeDevice {
  readonly peers = new Map<WireGuardKey, string>();
  readonly refuses = new Set<WireGuardKey>();
  isGone = false;
  /** What somebody else changed, until the device is applied again. */
  differences: string[] = [];
  applied = 0;

  as(): WireGuardDevice {
    return {
      apply: () => {
        this.isGone = false;
        this.differences = [];
        this.applied++;
        return Promise.resolve();
      },
      setPeer: ({ publicKey, allowedIps }) => {
        if (this.refuses.has(publicKey)) return Promise.reject(new Error("wg is busy"));
        this.peers.set(publicKey, allowedIps.join());
        return Promise.resolve();
      },
      setEndpoint: () => Promise.resolve(),
      removePeer: (key) => {
        this.peers.delete(key);
        return Promise.resolve();
      },
      verify: () => Promise.resolve(this.isGone ? ["The interface is missing."] : [...this.differences]),
      stats: () =>
        Promise.resolve(
          [...this.peers.keys()].map((publicKey) => ({
            publicKey,
            endpoint: null,
            lastHandshakeMs: null,
            rxBytes: 0,
            txBytes: 0,
          })),
        ),
      settings: () => Promise.resolve(null),
      prefixes: () =>
        Promise.resolve(new Map([...this.peers].map(([key, text]) => [key, text.split(",") as unknown as Cidr[]]))),
      counters: () => Promise.resolve(this.isGone ? null : { rxBytes: 0, txBytes: 0, rxPackets: 0, txPackets: 0 }),
      transfers: () => Promise.resolve(new Map()),
      implementation: () => ({ kind: "kernel" }),
      reset: () => Promise.resolve(),
    };
  }
}

function fakePaths(other: Partial<Paths>): Paths {
  return {
    discoveryPort: 1,
    nat: null,
    mapping: null,
    routerPort: { state: "off" },
    keepaliveS: 25,
    mappingLifeMs: null,
    told: () => [],
    canAdopt: true,
    mechanism: "nft",
    sync: () => undefined,
    take: () => undefined,
    welcomed: () => undefined,
    relayed: () => undefined,
    networkChanged: () => undefined,
    mend: () => Promise.resolve([]),
    view: () => null,
    [Symbol.asyncDispose]: () => Promise.resolve(),
    ...other,
  };
}

async function opened(device: FakeDevice): Promise<Tunnel> {
  const tunnel = await openTunnel(
    { device: device.as(), relay: RELAY, log: silentLogger },
    { privateKey: newWireGuardSecret(), listenPort: 9, addresses: [] },
    signal,
  );
  open.push(tunnel);
  return tunnel;
}

function peer(name: string, host: number): TunnelPeer {
  const { id, wireGuard, addresses } = somebody(name, host);
  return { id, name, wireGuard, allowedIps: [`${addresses[0]}/32` as Cidr], session: null };
}

test("a peer that could not be set once is set by the next sync, and keeps no other from it", async () => {
  const device = new FakeDevice();
  const tunnel = await opened(device);
  const [laptop, tablet] = [peer("laptop", 3), peer("tablet", 4)];
  device.refuses.add(laptop.wireGuard);
  expect(await failureOf(tunnel.sync([laptop, tablet], signal))).toMatchObject({ message: "wg is busy" });
  expect([...device.peers.keys()]).toEqual([tablet.wireGuard]);
  device.refuses.clear();
  await tunnel.sync([laptop, tablet], signal);
  expect(device.peers.get(laptop.wireGuard)).toBe("10.77.0.3/32");
});

test("a peer that could not be changed once is changed by the next sync", async () => {
  const device = new FakeDevice();
  const tunnel = await opened(device);
  const before = peer("laptop", 3);
  await tunnel.sync([before], signal);
  const after: TunnelPeer = { ...before, allowedIps: ["10.77.0.30/32" as Cidr] };
  device.refuses.add(before.wireGuard);
  expect(await failureOf(tunnel.sync([after], signal))).toBeInstanceOf(Error);
  device.refuses.clear();
  await tunnel.sync([after], signal);
  expect(device.peers.get(before.wireGuard)).toBe("10.77.0.30/32");
});

test("a device made anew gets every peer again, also one that it refused at first", async () => {
  const device = new FakeDevice();
  const tunnel = await opened(device);
  const [laptop, tablet] = [peer("laptop", 3), peer("tablet", 4)];
  await tunnel.sync([laptop, tablet], signal);
  device.isGone = true;
  device.peers.clear();
  device.refuses.add(laptop.wireGuard);
  expect(await failureOf(tunnel.sync([laptop, tablet], signal))).toBeInstanceOf(Error);
  device.refuses.clear();
  await tunnel.sync([laptop, tablet], signal);
  expect([...device.peers.keys()].toSorted()).toEqual([laptop.wireGuard, tablet.wireGuard].toSorted());
});

test("a device that was taken over keeps the endpoints of living peers, and no endpoint of a process that is gone", async () => {
  const [laptop, tablet, phone] = [peer("laptop", 3), peer("tablet", 4), peer("phone", 5)];
  const endpoint = (address: string) => ({ address: address as IpAddress, port: 51_820 });
  const stats = (wireGuard: WireGuardKey, address: string, ageMs: number) => ({
    publicKey: wireGuard,
    endpoint: endpoint(address),
    lastHandshakeMs: Date.now() - ageMs,
    rxBytes: 0,
    txBytes: 0,
  });
  const set: (string | null)[] = [];
  const device: WireGuardDevice = {
    ...new FakeDevice().as(),
    stats: () =>
      Promise.resolve([
        stats(laptop.wireGuard, "198.51.100.9", 30_000),
        stats(tablet.wireGuard, "127.0.0.1", 30_000),
        stats(phone.wireGuard, "198.51.100.8", 400_000),
      ]),
    setPeer: (one) => {
      set.push(one.endpoint?.address ?? null);
      return Promise.resolve();
    },
  };
  const seen: (Endpoint | null)[] = [];
  const paths = fakePaths({ sync: (sessions) => void seen.push(...sessions.map((one) => one.living)) });
  const tunnel = await openTunnel(
    { device, relay: RELAY, openPaths: () => Promise.resolve(paths), log: silentLogger },
    { privateKey: newWireGuardSecret(), listenPort: 9, addresses: [] },
    signal,
  );
  open.push(tunnel);
  await tunnel.sync([laptop, tablet, phone], signal);
  expect(set).toEqual([null, "127.0.0.1", "127.0.0.1"]);
  expect(seen).toEqual([endpoint("198.51.100.9"), null, null]);
});

test("mend() puts the device and its peers back that somebody else changed, and leaves alone what is as wanted", async () => {
  const device = new FakeDevice();
  const tunnel = await opened(device);
  const [one, two] = [peer("one", 2), peer("two", 3)];
  await tunnel.sync([one, two], signal);
  expect([await tunnel.mend("all", signal), device.applied]).toEqual([[], 1]);
  device.differences = ["An address is missing."];
  device.peers.delete(two.wireGuard);
  expect([await tunnel.mend("rules", signal), device.applied]).toEqual([[], 1]); // of the rules alone
  expect(await tunnel.mend("all", signal)).toEqual(["An address is missing.", 'The peer "two" is missing.']);
  expect([device.applied, [...device.peers.keys()]]).toEqual([2, [one.wireGuard, two.wireGuard]]);
  device.peers.set(one.wireGuard, "192.0.2.1/32");
  expect(await tunnel.mend("all", signal)).toContain('The peer "one" has other prefixes.');
  expect(device.peers.get(one.wireGuard)).toBe("10.77.0.2/32");
  device.isGone = true;
  device.peers.clear();
  expect(await tunnel.mend("all", signal)).toHaveLength(3);
  expect([device.isGone, device.peers.size]).toEqual([false, 2]);
});

test("bug: rules of the paths that could not be taken away left the bridges open", async () => {
  const detached: unknown[] = [];
  const refused = new Error("nft is busy");
  const tunnel = await openTunnel(
    {
      device: new FakeDevice().as(),
      relay: { ...RELAY, detach: (session) => void detached.push(session) },
      openPaths: () => Promise.resolve(fakePaths({ [Symbol.asyncDispose]: () => Promise.reject(refused) })),
      log: silentLogger,
    },
    { privateKey: newWireGuardSecret(), listenPort: 9, addresses: [] },
    signal,
  );
  const session = { id: "s1", initiator: true } as unknown as NonNullable<TunnelPeer["session"]>;
  await tunnel.sync([{ ...peer("one", 2), session }], signal);
  expect(await failureOf(Promise.resolve(tunnel[Symbol.asyncDispose]()))).toBe(refused);
  expect(detached).toEqual(["s1"]);
});
