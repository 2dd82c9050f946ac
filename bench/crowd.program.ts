// A process full of machines, told by its parent what they do: hold relay or control connections, send frames, count them, time deltas.
import type { ServerMessage } from "../src/proto/control.ts";
import { FrameBuilder } from "../src/proto/relay-frame.ts";
import type { Answer, Order } from "./crowd.ts";
import { lightMachine, type LightMachine, lightRecord, lightSocket } from "./light-machine.ts";

const machines: LightMachine[] = [];
const controls: WebSocket[] = [];
const relays: WebSocket[] = [];
const delays: number[] = [];
let session = 0;
let bytesIn = 0;
let firstAt = 0;
let lastAt = 0;

/** Milliseconds that mean the same in each process of this machine. */
const now = (): number => performance.timeOrigin + performance.now();

process.on("message", (order: Order) => {
  handle(order).then(
    (answer) => process.send?.(answer),
    (thrown: unknown) => process.send?.({ error: String(thrown) }),
  );
});
process.on("disconnect", () => process.exit(0));

async function handle(order: Order): Promise<Answer> {
  switch (order.do) {
    case "enrol": {
      // Ten at a time: many handshakes at once would only wait for each other.
      for (let from = 0; from < order.count; from += 10) {
        const batch = Array.from({ length: Math.min(10, order.count - from) }, (_, i) => from + i);
        const made = batch.map((i) =>
          lightMachine(order.place, order.invites[Math.floor(i / 100)] ?? "", order.first + i),
        );
        machines.push(...(await Promise.all(made)));
      }
      return { ids: machines.map((machine) => machine.enrolment.id) };
    }
    case "relay":
      for (const machine of machines.slice(relays.length, order.upTo)) {
        const socket = await lightSocket(machine, "relay");
        socket.onmessage = (event: MessageEvent<Uint8Array>) => {
          firstAt ||= now();
          lastAt = now();
          bytesIn += event.data.length;
        };
        relays.push(socket);
      }
      return {};
    case "control":
      for (const machine of machines) {
        const socket = await lightSocket(machine, "control");
        socket.onmessage = (event: MessageEvent<string>) => take(event.data);
        controls.push(socket);
        socket.send(JSON.stringify({ type: "record", record: lightRecord(machine) }));
      }
      return {};
    case "connect":
      controls[0]?.send(JSON.stringify({ type: "connect", ref: 1, peer: order.peer, kind: "wireguard" }));
      while (session === 0) await Bun.sleep(5);
      return { session };
    case "send":
      return { framesOut: await send(order) };
    case "count": {
      const counted = { bytesIn, spanMs: lastAt - firstAt };
      bytesIn = 0;
      firstAt = 0;
      return counted;
    }
    case "presence": {
      const exit = { ready: false, ipv6: false, missing: [`at ${now()}`] };
      controls[order.index % controls.length]?.send(JSON.stringify({ type: "presence", exit }));
      return {};
    }
    case "delays":
      return { delays: delays.splice(0) };
  }
}

/** Most deltas of a crowd are somebody's arrival, and not read any further. */
function take(text: string): void {
  const at = text.indexOf('"missing":["at ');
  if (text.startsWith('{"type":"delta"') && at > 0) {
    delays.push(now() - Number.parseFloat(text.slice(at + 15, at + 40)));
  } else if (text.startsWith('{"type":"connected"') || text.startsWith('{"type":"session"')) {
    const message = JSON.parse(text) as Extract<ServerMessage, { type: "session" | "connected" }>;
    ({ id: session } = message.session);
  }
}

const WAITING_BYTES = 262_144;

async function send(order: Extract<Order, { do: "send" }>): Promise<number> {
  const frame = dataFrame(order.packets);
  const [socket] = relays;
  const until = now() + order.seconds * 1000;
  let frames = 0;
  while (socket !== undefined && now() < until) {
    while (socket.bufferedAmount < WAITING_BYTES) {
      socket.send(frame);
      frames++;
      if (frames % 64 === 0) break;
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
  return frames;
}

/** So many transport messages of 1 400 bytes. */
function dataFrame(packets: number): Uint8Array<ArrayBuffer> {
  const builder = new FrameBuilder();
  const packet = new Uint8Array(1400);
  packet[0] = 4;
  for (let i = 0; i < packets; i++) builder.add(packet);
  return new Uint8Array(builder.take(session));
}
