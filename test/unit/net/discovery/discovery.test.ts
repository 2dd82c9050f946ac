// Discovery without the kernel's help: rules as text, and the bridge over real sockets on loopback.
import { afterEach, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Endpoint, IpAddress } from "../../../../src/base/ip.ts";
import { silentLogger } from "../../../../src/base/log.ts";
import { bridgeDiscovery } from "../../../../src/net/discovery/bridge.ts";
import { demuxTable } from "../../../../src/net/discovery/demux-table.ts";
import type { Discovery } from "../../../../src/net/discovery/discovery.ts";
import { nftDiscovery } from "../../../../src/net/discovery/nft.ts";
import { replacementText } from "../../../../src/net/firewall/nft-table.ts";
import { IDENTIFIERS } from "../../../../src/net/identifiers.ts";
import { bindingRequest, encodeStun } from "../../../../src/proto/stun.ts";
import { FakeNft } from "../firewall/fake-nft.ts";
import { memoryJournal } from "../memory-journal.ts";

const { signal } = new AbortController();
const GOLDEN = readFileSync(join(import.meta.dir, "../golden/demux.nft"), "utf8");
const LOOPBACK = "127.0.0.1" as IpAddress;
const stun = (fill = 1): Uint8Array => encodeStun(bindingRequest(new Uint8Array(12).fill(fill)));

let open: AsyncDisposable[] = [];
afterEach(async () => {
  for (const one of open.toReversed()) await one[Symbol.asyncDispose]();
  open = [];
});

interface End {
  readonly endpoint: Endpoint;
  readonly heard: { readonly bytes: Uint8Array; readonly from: Endpoint }[];
  send(bytes: Uint8Array, to: Endpoint): void;
}

/** A socket somewhere on loopback, such as WireGuard's, or a peer's. */
async function end(): Promise<End> {
  const heard: End["heard"] = [];
  const socket = await Bun.udpSocket({
    hostname: LOOPBACK,
    port: 0,
    binaryType: "uint8array",
    socket: {
      data: (_socket, bytes, port, address) =>
        void heard.push({ bytes, from: { address: address as IpAddress, port } }),
      error: () => undefined,
    },
  });
  open.push({
    [Symbol.asyncDispose]() {
      socket.close();
      return Promise.resolve();
    },
  });
  return {
    endpoint: { address: LOOPBACK, port: socket.port },
    heard,
    send: (bytes, to) => void socket.send(bytes, to.port, to.address),
  };
}

async function until(what: () => boolean): Promise<void> {
  while (!what()) await Bun.sleep(2); // the test's own timeout ends it
}

function packet(size: number, fill: number): Uint8Array {
  const bytes = new Uint8Array(size).fill(fill);
  bytes.set([4, 0, 0, 0]);
  return bytes;
}

async function bridged() {
  const wireGuard = await end();
  const heard: End["heard"] = [];
  const discovery: Discovery = await bridgeDiscovery({ identifiers: IDENTIFIERS.client }).open(
    { wireGuardPort: wireGuard.endpoint.port, onMessage: (bytes, from) => void heard.push({ bytes, from }) },
    signal,
  );
  open.push(discovery);
  return { wireGuard, heard, discovery, at: { address: LOOPBACK, port: discovery.publicPort } };
}

describe("demuxTable()", () => {
  test("gives STUN messages to discovery, and discovery WireGuard's port", () => {
    const table = demuxTable("higgs_client_demux", { wireGuard: 51820, discovery: 51821, uid: 997 });
    expect(replacementText(table)).toBe(GOLDEN);
  });
});

describe("nftDiscovery()", () => {
  test("journals its table before it is there, mends it, and takes it away", async () => {
    const nft = new FakeNft();
    const journal = memoryJournal();
    const port = nftDiscovery({ exec: nft, journal, identifiers: IDENTIFIERS.client, log: silentLogger });
    const discovery = await port.open({ wireGuardPort: 51820, onMessage: () => undefined }, signal);
    open.push(discovery);
    const uid = process.getuid?.() ?? 0;
    const table = demuxTable("higgs_client_demux", { wireGuard: 51820, discovery: discovery.port, uid });
    expect(nft.loaded).toEqual([replacementText(table)]);
    expect(journal.printed()).toBe("demux-table");
    expect(discovery.publicPort).toBe(51820);
    expect(await discovery.repair(signal)).toBe(false);
    nft.tables.clear();
    expect(await discovery.repair(signal)).toBe(true);
    expect(await discovery.repair(signal)).toBe(false);
    await discovery[Symbol.asyncDispose]();
    await discovery[Symbol.asyncDispose]();
    expect(nft.printed() + journal.printed()).toBe("");
  });

  test("leaves no socket behind when nft refuses", async () => {
    const exec = { run: () => Promise.resolve({ code: 1, stdout: "", stderr: "Error: Operation not supported" }) };
    const port = nftDiscovery({ exec, journal: memoryJournal(), identifiers: IDENTIFIERS.client, log: silentLogger });
    const failed = await port
      .open({ wireGuardPort: 51820, onMessage: () => undefined }, signal)
      .catch((thrown: unknown) => thrown);
    expect(failed).toMatchObject({ code: "demux-failed" });
  });
});

describe("bridgeDiscovery()", () => {
  test("takes STUN for itself, in both directions, and keeps the bytes apart", async () => {
    const { heard, discovery, at } = await bridged();
    const peer = await end();
    for (let fill = 1; fill <= 20; fill++) peer.send(stun(fill), at);
    await until(() => heard.length === 20);
    expect(heard.map(({ bytes }) => bytes.toHex())).toEqual(
      Array.from({ length: 20 }, (_, at) => stun(at + 1).toHex()),
    );
    expect(heard[0]?.from).toEqual(peer.endpoint);
    expect(discovery.send(stun(9), peer.endpoint)).toBe(true);
    await until(() => peer.heard.length === 1);
    expect(peer.heard[0]).toEqual({ bytes: stun(9), from: at });
  });

  test("hands on WireGuard's packets from a place that was named, in order and many at once, and drops them when it no longer is", async () => {
    const { heard, discovery, at } = await bridged();
    const [peer, other] = [await end(), await end()];
    const got: Uint8Array[][] = [];
    const others: Uint8Array[] = [];
    discovery.accept(peer.endpoint, (packets) => void got.push([...packets]));
    discovery.accept(other.endpoint, (packets) => void others.push(...packets));
    for (let fill = 1; fill <= 20; fill++) peer.send(packet(100, fill), at);
    other.send(packet(100, 99), at);
    await until(() => got.flat().length === 20 && others.length === 1);
    expect(got.flat().map((bytes) => bytes[50])).toEqual(Array.from({ length: 20 }, (_, index) => index + 1));
    expect(got.length).toBeLessThan(20);
    expect([heard.length, discovery.dropped]).toEqual([0, 0]);
    discovery.accept(peer.endpoint, null);
    peer.send(packet(100, 21), at);
    other.send(packet(100, 98), at);
    await until(() => others.length === 2 && discovery.dropped === 1);
    expect(got.flat()).toHaveLength(20);
    expect(discovery.sendMany([packet(1400, 7)], peer.endpoint)).toBe(1);
    await until(() => peer.heard.length === 1);
    expect(peer.heard[0]).toEqual({ bytes: packet(1400, 7), from: at });
  });

  test("opens another port, whose every datagram is its owner's", async () => {
    const { wireGuard, discovery } = await bridged();
    const peer = await end();
    const heard: string[] = [];
    const side = await discovery.openSide((bytes, from) => void heard.push(`${from.port} ${bytes.toHex()}`));
    open.push(side);
    expect(side.port).not.toBe(discovery.port);
    expect([side.send(stun(3), peer.endpoint), side.sendMany([packet(100, 1)], peer.endpoint)]).toEqual([true, 1]);
    await until(() => peer.heard.length === 2);
    expect(peer.heard.map(({ from }) => from.port)).toEqual([side.port, side.port]);
    for (const bytes of [packet(100, 1), stun(9)]) peer.send(bytes, { address: LOOPBACK, port: side.port });
    await until(() => heard.length === 2);
    expect(heard).toEqual([packet(100, 1), stun(9)].map((bytes) => `${peer.endpoint.port} ${bytes.toHex()}`));
    expect(wireGuard.heard).toEqual([]);
  });

  test("drops strangers' packets and whatever is neither, and counts them", async () => {
    const { wireGuard, heard, discovery, at } = await bridged();
    const stranger = await end();
    const notStun = stun();
    notStun[4] = 0;
    for (const bytes of [packet(100, 1), notStun, new Uint8Array(1), new Uint8Array(1400)]) stranger.send(bytes, at);
    await until(() => discovery.dropped === 4);
    expect([wireGuard.heard.length, heard.length]).toEqual([0, 0]);
  });

  test("refuses WireGuard's own port, and one that another has", async () => {
    const { discovery, at } = await bridged();
    for (const publicPort of [51820, at.port]) {
      const opening = bridgeDiscovery({ identifiers: IDENTIFIERS.client }).open(
        { wireGuardPort: 51820, publicPort, onMessage: () => undefined },
        signal,
      );
      expect(await opening.catch((thrown: unknown) => thrown)).toMatchObject({ code: "port-busy" });
    }
    expect(discovery.families).toContain(4);
  });

  test("sends nothing larger than the interface takes, and many at once", async () => {
    const { discovery } = await bridged();
    const peer = await end();
    expect(discovery.sendMany([packet(100, 1), packet(200, 2)], peer.endpoint)).toBe(2);
    await until(() => peer.heard.length === 2);
    expect(discovery.send(new Uint8Array(65_530), peer.endpoint)).toBe(false);
    expect(discovery.sendMany([], peer.endpoint)).toBe(0);
  });
});
