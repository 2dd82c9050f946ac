// On a lab host: the server's UDP relay by itself, or one of two ends that send packets of WireGuard's form through a relay, ours or a TURN server.
//
//   relay kernel|process ADDRESS          one session on ADDRESS; prints "relay ADDRESS:PORT"
//   receive RELAY|-                       latches at the relay, or waits for what a TURN server sends; prints "at ADDRESS:PORT"
//   send RELAY JSON                       sends for some seconds and prints what came of it
//
// The sender has at most WINDOW packets under way, and the receiver says after each 64 how many it has: so the relay is always busy,
// and nothing is dropped for want of its time.
import { type Endpoint, formatEndpoint, parseEndpoint, parseIp } from "../src/base/ip.ts";
import { silentLogger } from "../src/base/log.ts";
import { systemExec } from "../src/net/exec.ts";
import { nftRelayTable } from "../src/net/relay-table.ts";
import { addressedBatches } from "../src/net/udp-batch.ts";
import { enlargeReceiveBuffer } from "../src/net/udp-options.ts";
import { BINDING, bindingRequest, bindingSuccess, decodeStun, encodeStun } from "../src/proto/stun.ts";
import { KernelRelay } from "../src/server/udp-relay/kernel.ts";
import { sessionName } from "../src/server/udp-relay/messages.ts";
import { udpRelay } from "../src/server/udp-relay/service.ts";
import { openChannel, TURN_CHANNEL } from "./turn.ts";

export interface SendOrder {
  readonly seconds: number;
  readonly sizeBytes: number;
  /** Packets that leave together, as from a WireGuard under load; 1 for one after the other. */
  readonly batch: number;
  /** The peer that a TURN server relays to; null for our own relay. */
  readonly turnPeer: string | null;
}

export interface SendResult {
  readonly received: number;
  readonly lost: number;
  readonly seconds: number;
}

const SESSION = 7;
const END_PORT = 51_820;
const WINDOW = 512;
const ACK_EVERY = 64;
const STALL_MS = 20;
const BUFFER_BYTES = 8 << 20;
const WAIT_MS = 10_000;
const key = (n: number): Uint8Array => new Uint8Array(32).fill(n);
const KEYS = { toEnd: [key(1), key(2)], fromEnd: [key(3), key(4)] } as const;

const [mode = "", place = "", argument = ""] = process.argv.slice(2);
if (mode === "relay") await relay(place, argument);
else if (mode === "receive") await receive(place === "-" ? null : endpointOf(place));
else await send(endpointOf(place), JSON.parse(argument) as SendOrder);

function endpointOf(text: string): Endpoint {
  const endpoint = parseEndpoint(text);
  if (endpoint === null) throw new Error(`"${text}" is no endpoint`);
  return endpoint;
}

async function relay(how: string, address: string): Promise<void> {
  const local = parseIp(address);
  if (local === null) throw new Error(`"${address}" is no address`);
  const log = silentLogger;
  const table = nftRelayTable({ exec: systemExec() });
  let kernel: KernelRelay | null = null;
  if (how === "kernel") {
    const reserved = await table.apply({ addresses: [local], fence: [] }, AbortSignal.timeout(WAIT_MS));
    kernel = new KernelRelay({ table, families: new Set([4]), reserved, log });
  }
  const opened = udpRelay(
    { kernel, log },
    { places: [{ local, public: local }], ports: { first: 40_000, last: 40_009 } },
  );
  console.log(`relay ${opened.open(SESSION, { toEnd: [...KEYS.toEnd], fromEnd: [...KEYS.fromEnd] })[0]}`);
}

interface OpenEnd {
  readonly batches: ReturnType<typeof addressedBatches>;
  /** Takes what is no STUN message of ours. */
  onData: (bytes: Uint8Array, from: { readonly port: number; readonly address: string }) => void;
  onStun: (bytes: Uint8Array) => void;
}

async function openEnd(which: 0 | 1): Promise<OpenEnd> {
  const socket = await Bun.udpSocket({
    hostname: "0.0.0.0",
    port: END_PORT,
    binaryType: "uint8array",
    socket: {
      data(_socket, bytes, port, address) {
        const first = bytes[0] ?? 0;
        if (first === 4 || first >= 0x40) return end.onData(bytes, { port, address });
        const message = decodeStun(bytes);
        const mapped = parseIp(address);
        if (message?.class !== "request" || message.method !== BINDING || mapped === null) return end.onStun(bytes);
        const success = bindingSuccess(message.transactionId, { mapped: { address: mapped, port } });
        end.batches.send(encodeStun(success, { integrityKey: KEYS.fromEnd[which] }), { port, address });
      },
      error: () => undefined, // the other end is not there yet
    },
  });
  const end: OpenEnd = { batches: addressedBatches(socket), onData: () => undefined, onStun: () => undefined };
  await enlargeReceiveBuffer(socket, BUFFER_BYTES);
  return end;
}

/** Says again and again who it is, as packets before the other end is there are lost. */
function latch(end: OpenEnd, which: 0 | 1, to: Endpoint): Timer {
  const ask = (): void => {
    const request = bindingRequest(crypto.getRandomValues(new Uint8Array(12)), [
      { type: "username", text: sessionName(SESSION) },
    ]);
    end.batches.send(encodeStun(request, { integrityKey: KEYS.fromEnd[which] }), to);
  };
  ask();
  return setInterval(ask, 200);
}

async function receive(from: Endpoint | null): Promise<void> {
  const end = await openEnd(1);
  if (from !== null) latch(end, 1, from);
  let count = 0;
  let told = 0;
  const acknowledge = (to: { readonly port: number; readonly address: string }): void => {
    told = count;
    const bytes = new Uint8Array(32);
    bytes[0] = 4;
    new DataView(bytes.buffer).setUint32(16, count);
    end.batches.send(bytes, to);
  };
  end.onData = (bytes, source) => {
    // The first of a measurement starts the count anew, and is answered at once.
    if (bytes[8] === 1) count = told = 0;
    count++;
    if (bytes[8] === 1 || count - told >= ACK_EVERY) acknowledge(source);
  };
  console.log(`at 0.0.0.0:${END_PORT}`);
}

async function send(relayAt: Endpoint, order: SendOrder): Promise<void> {
  const end = await openEnd(0);
  const { turnPeer, sizeBytes, batch } = order;
  if (turnPeer === null) latch(end, 0, relayAt);
  else await openChannel(end, relayAt, endpointOf(turnPeer));
  const prefix = turnPeer === null ? 0 : 4;
  const made = (isFirst: boolean): Uint8Array => {
    const bytes = new Uint8Array(prefix + sizeBytes);
    if (prefix > 0) new DataView(bytes.buffer).setUint32(0, (TURN_CHANNEL << 16) | sizeBytes);
    bytes[prefix] = 4;
    bytes[prefix + 8] = isFirst ? 1 : 0;
    return bytes;
  };
  let received = 0;
  let heardAt = 0;
  let onAck = (): void => undefined;
  end.onData = (bytes) => {
    const at = (bytes[0] ?? 0) >= 0x40 ? 4 : 0;
    received = new DataView(bytes.buffer, bytes.byteOffset + at).getUint32(16);
    heardAt = performance.now();
    onAck();
  };
  // Until the way is open.
  const until = performance.now() + WAIT_MS;
  while (received === 0) {
    if (performance.now() > until) throw new Error(`nothing comes through ${formatEndpoint(relayAt)}`);
    end.batches.send(made(true), relayAt);
    await Bun.sleep(50);
  }
  const packets = Array.from({ length: batch }, () => made(false));
  const started = performance.now();
  const before = received;
  let sent = received;
  let lost = 0;
  const { promise, resolve } = Promise.withResolvers<void>();
  const pump = (): void => {
    const now = performance.now();
    if (now - started >= order.seconds * 1000) return resolve();
    if (sent - received - lost > 0 && now - heardAt > STALL_MS) {
      lost += sent - received - lost;
      heardAt = now;
    }
    while (sent - received - lost + batch <= WINDOW) {
      end.batches.sendAll(packets, relayAt);
      sent += batch;
    }
  };
  onAck = pump;
  const timer = setInterval(pump, 5);
  pump();
  await promise;
  clearInterval(timer);
  const seconds = (performance.now() - started) / 1000;
  const result: SendResult = { received: received - before, lost, seconds };
  console.log(`result ${JSON.stringify(result)}`);
  process.exit(0);
}
