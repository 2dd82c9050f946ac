// Runs in a lab host until the host or a signal ends it: WireGuard, discovery, redirects and port mapping, as orders over a socket of the host ask.
import type { Endpoint } from "../../src/base/ip.ts";
import { formatEndpoint, parseEndpoint } from "../../src/base/ip.ts";
import { createLogger } from "../../src/base/log.ts";
import { bridgeDiscovery } from "../../src/net/discovery/bridge.ts";
import type { Discovery, SidePort } from "../../src/net/discovery/discovery.ts";
import { nftDiscovery } from "../../src/net/discovery/nft.ts";
import { systemExec } from "../../src/net/exec.ts";
import { IDENTIFIERS } from "../../src/net/identifiers.ts";
import { openJournal } from "../../src/net/journal-file.ts";
import { nftRedirect } from "../../src/net/nft-redirect.ts";
import { portMapper } from "../../src/net/port-mapping/mapper.ts";
import type { PortMapper } from "../../src/net/port-mapping/port-mapping.ts";
import { hostMtus } from "../../src/net/routes/host-mtus.ts";
import { enlargeReceiveBuffer } from "../../src/net/udp-options.ts";
import { undoAll } from "../../src/net/undo.ts";
import { linuxWireGuard } from "../../src/net/wg/linux.ts";
import { type Bridge, openBridge } from "../../src/peer/bridge.ts";
import { bindingRequest, bindingSuccess, decodeStun, encodeStun } from "../../src/proto/stun.ts";
import { PATH_SOCKET, type PathOrder, type PathStatus } from "./path-hosts.ts";

const STATE_DIR = "/var/lib/higgs-node";
const TUNNEL_PORT = 7777;
const NO_RELAY = { send: () => undefined, attach: () => undefined, detach: () => undefined };
/** As the check of a path is sent again when it got lost. */
const ASK_MS = [0, 100, 300, 700];

await Bun.$`mkdir -p ${STATE_DIR}`.quiet();
const log = createLogger({ level: "debug", write: (line) => console.error(line) });
const exec = systemExec();
const identifiers = IDENTIFIERS.node;
const journal = await openJournal({ path: `${STATE_DIR}/journal.json`, role: "node", log });
const deps = { exec, journal, identifiers, log };
const device = linuxWireGuard(deps);
const redirect = nftRedirect(deps);
const mtus = hostMtus(deps);
const signal = new AbortController().signal;
let discovery: Discovery | null = null;
let wireGuardPort = 0;
let bridge: Bridge | null = null;
let side: SidePort | null = null;
let mapper: PortMapper | null = null;
/** By transaction id: who waits for the answer. */
const waiting = new Map<string, (mapped: Endpoint) => void>();

let mistaken = 0;

/** Answers checks, and hands answers to who asked. */
function onMessage(bytes: Uint8Array, from: Endpoint, by: Pick<SidePort, "send"> | null = discovery): void {
  const message = decodeStun(bytes);
  if (message === null) mistaken++;
  if (message?.class === "request") {
    by?.send(encodeStun(bindingSuccess(message.transactionId, { mapped: from })), from);
  }
  if (message?.class !== "success") return;
  for (const attribute of message.attributes) {
    if ("endpoint" in attribute) waiting.get(message.transactionId.toHex())?.(attribute.endpoint);
  }
}

/** What the other end sees; null without an answer. */
async function ask(to: Endpoint, sizeBytes: number, by: Pick<SidePort, "send"> | null): Promise<string | null> {
  const transactionId = crypto.getRandomValues(new Uint8Array(12));
  const { promise, resolve } = Promise.withResolvers<Endpoint | null>();
  waiting.set(transactionId.toHex(), resolve);
  const bytes = encodeStun(bindingRequest(transactionId), sizeBytes === 0 ? {} : { sizeBytes });
  const timers = ASK_MS.map((atMs) => setTimeout(() => by?.send(bytes, to), atMs));
  timers.push(setTimeout(() => resolve(null), (ASK_MS.at(-1) ?? 0) * 2));
  const mapped = await promise;
  for (const timer of timers) clearTimeout(timer);
  waiting.delete(transactionId.toHex());
  return mapped === null ? null : formatEndpoint(mapped);
}

/** A thousand datagrams a second through the tunnel, numbered. */
let streaming: ReturnType<typeof setInterval> | null = null;
let sent = 0;
const received = new Set<number>();
let tunnel: Awaited<ReturnType<typeof openTunnelSocket>> | null = null;

async function openTunnelSocket(address: string) {
  const socket = await Bun.udpSocket({
    hostname: address,
    port: TUNNEL_PORT,
    binaryType: "uint8array",
    socket: {
      data: (_socket, bytes) => void received.add(new DataView(bytes.buffer, bytes.byteOffset).getUint32(0)),
      error: () => undefined,
    },
  });
  await enlargeReceiveBuffer(socket, 4 * 1024 * 1024); // what this process is too busy to take is no loss of the path's
  return socket;
}

function stream(to: string): void {
  const packet = new Uint8Array(200);
  streaming = setInterval(() => {
    for (let burst = 0; burst < 5; burst++) {
      new DataView(packet.buffer).setUint32(0, sent);
      if (tunnel?.send(packet, TUNNEL_PORT, to) === true) sent++;
    }
  }, 5);
}

async function obey(order: PathOrder): Promise<unknown> {
  switch (order.do) {
    case "wireguard":
      await device.apply(order.config, signal);
      tunnel ??= await openTunnelSocket(order.config.addresses[0] ?? "");
      return null;
    case "peer":
      return device.setPeer(order.peer, signal);
    case "open": {
      const port = order.mechanism === "nft" ? nftDiscovery(deps) : bridgeDiscovery(deps);
      discovery = await port.open({ ...order.ports, onMessage }, signal);
      wireGuardPort = order.ports.wireGuardPort;
      return { port: discovery.port, publicPort: discovery.publicPort, families: discovery.families };
    }
    case "close":
      await discovery?.[Symbol.asyncDispose]();
      discovery = null;
      return null;
    case "ask":
      return ask(endpoint(order.to), order.sizeBytes ?? 0, order.bySide === true ? side : discovery);
    case "side":
      side = (await discovery?.openSide((bytes, from) => onMessage(bytes, from, side))) ?? null;
      return side?.port;
    case "peer-socket":
      if (discovery?.mechanism !== "bridge") return endpoint(order.to);
      bridge = await openBridge({ wireGuardPort, relay: NO_RELAY });
      lead(endpoint(order.to));
      return bridge.endpoint;
    case "route":
      for (const from of order.alsoFrom ?? []) accept(endpoint(from));
      lead(endpoint(order.to));
      return null;
    case "repair":
      return discovery?.repair(signal);
    case "redirect":
      return redirect.apply(order.policy, signal);
    case "mtus":
      return mtus.apply(order.peers, signal);
    case "stream":
      stream(order.to);
      return null;
    case "stop":
      if (streaming !== null) clearInterval(streaming);
      streaming = null;
      return null;
    case "map":
      mapper = portMapper({ log }, { ...order.options, onChange: () => undefined });
      return null;
    case "refresh":
      mapper?.refresh();
      return null;
    case "unmap":
      await mapper?.[Symbol.asyncDispose]();
      return null;
    case "undo":
      return undoAll("node", { exec, journal, log, stateDir: STATE_DIR, signal });
    case "status": {
      const stats = await device.stats(signal).catch(() => []);
      const endpoints = stats.map((peer) => (peer.endpoint === null ? "" : formatEndpoint(peer.endpoint)));
      const mapping = mapper?.current ?? null;
      return { sent, received: received.size, endpoints, mapping, mistaken } satisfies PathStatus;
    }
  }
}

/** As a path's mover does where a socket of ours has the port. */
function lead(to: Endpoint): void {
  bridge?.divert((packets) => discovery?.sendMany(packets, to) ?? 0);
  accept(to);
}

function accept(from: Endpoint): void {
  discovery?.accept(from, (packets) => bridge?.inject(packets));
}

function endpoint(text: string): Endpoint {
  const parsed = parseEndpoint(text);
  if (parsed === null) throw new Error(`"${text}" is no endpoint.`);
  return parsed;
}

await Bun.$`rm -f ${PATH_SOCKET}`.quiet(); // of a driver that was killed
Bun.serve({
  unix: PATH_SOCKET,
  async fetch(request) {
    try {
      return Response.json({ ok: (await obey((await request.json()) as PathOrder)) ?? null });
    } catch (thrown) {
      return Response.json({ failed: String(thrown) });
    }
  },
});
console.log("ready");
