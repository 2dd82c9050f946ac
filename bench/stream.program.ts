// On a lab host: a thousand numbered datagrams a second each way through whatever lies between, and at the end what is missing.
//
//   stream.program.ts web PORT            answers whoever sends, until told that it is over
//   stream.program.ts laptop ADDRESS PORT  sends from its start to SIGINT; prints "result {…}"
//
//   | kind u8: 0 data, 1 over, 2 what came | zero 3 | number u32 | sent u32 | received u32 | zeros to 200 bytes |
import { enlargeReceiveBuffer } from "../src/net/udp-options.ts";

export interface StreamResult {
  /** From the laptop, and how many of them came. */
  readonly up: { readonly sent: number; readonly received: number };
  readonly down: { readonly sent: number; readonly received: number };
}

const PER_MS = 1;
const TICK_MS = 4;
/** After a pause of this process, no more than this leaves at once: a burst would overflow what is being measured. */
const MOST_AT_ONCE = 64;
const DRAIN_MS = 800;
const BYTES = 200;
const BUFFER_BYTES = 4 << 20;

const [mode = "", ...rest] = process.argv.slice(2);
const isWeb = mode === "web";
const numbers = new Set<number>();
let to: { readonly port: number; readonly address: string } | null = isWeb
  ? null
  : { address: rest[0] ?? "", port: Number(rest[1]) };
let sent = 0;
let isOver = false;
let dueAt = performance.now();

const socket = await Bun.udpSocket({
  hostname: "0.0.0.0",
  port: isWeb ? Number(rest[0]) : 0,
  binaryType: "uint8array",
  socket: {
    data(_socket, bytes, port, address) {
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
      if (bytes[0] === 0) {
        if (to === null) dueAt = performance.now();
        if (isWeb) to = { port, address };
        numbers.add(view.getUint32(4));
      } else if (bytes[0] === 1 && isWeb) {
        isOver = true;
        send(2);
      } else if (bytes[0] === 2 && !isWeb) {
        finish(view.getUint32(8), view.getUint32(12));
      }
    },
    error: () => undefined, // an ICMP error while there is no way
  },
});
await enlargeReceiveBuffer(socket, BUFFER_BYTES);
setInterval(tick, TICK_MS);
console.log("ready");
process.on("SIGINT", () => {
  isOver = true;
  setTimeout(() => setInterval(() => send(1), 50), DRAIN_MS);
});

function tick(): void {
  const now = performance.now();
  if (to === null || isOver) return;
  const due = Math.floor((now - dueAt) * PER_MS);
  for (let i = 0; i < Math.min(due, MOST_AT_ONCE); i++) {
    send(0);
    sent++;
  }
  dueAt += due / PER_MS; // what was missed is not made up for
}

function send(kind: 0 | 1 | 2): void {
  if (to === null) return;
  const bytes = new Uint8Array(BYTES);
  const view = new DataView(bytes.buffer);
  bytes[0] = kind;
  view.setUint32(4, sent);
  view.setUint32(8, sent);
  view.setUint32(12, numbers.size);
  try {
    socket.send(bytes, to.port, to.address);
  } catch {
    // no way there for the moment: lost
  }
}

function finish(otherSent: number, otherReceived: number): void {
  const result: StreamResult = {
    up: { sent, received: otherReceived },
    down: { sent: otherSent, received: numbers.size },
  };
  console.log(`result ${JSON.stringify(result)}`);
  process.exit(0);
}
