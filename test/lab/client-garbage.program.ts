// Runs in the lab's hosts: throws garbage at a socket, as whoever finds it on the internet might, and says when all of it is thrown.
import { randomBytes } from "node:crypto";
import { connect } from "node:net";
import { connect as tlsConnect } from "node:tls";

export interface Garbage {
  readonly kind: "tcp" | "tls" | "udp" | "unix";
  /** Path of a Unix socket, or an address. */
  readonly to: string;
  readonly port: number;
  readonly count: number;
}

const order = JSON.parse(process.argv[2] ?? "{}") as Garbage;
/** From nothing to more than any message of ours, and what is nearly HTTP, STUN or WireGuard. */
const SIZES = [0, 1, 19, 20, 31, 32, 64, 92, 148, 1400];
const NEARLY = [
  "GET / HTTP/1.1\r\nHost: \0\r\n\r\n",
  "POST /api/v1/clients/register HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n{]}",
  "GET /api/v1/control HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
  `GET /${"a".repeat(20_000)} HTTP/1.1\r\n\r\n`,
  "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
  "POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n{",
].map((text) => Buffer.from(text));
const STUN = Buffer.from("000100602112a442", "hex"); // says that it has more than it has

function piece(index: number): Buffer {
  const nearly = NEARLY[index % (2 * NEARLY.length)];
  if (nearly !== undefined) return nearly;
  const bytes = randomBytes(SIZES[index % SIZES.length] ?? 0);
  if (index % 3 === 0) STUN.copy(bytes);
  else if (index % 3 === 1 && bytes.length > 4) bytes.set([(index % 4) + 1, 0, 0, 0]);
  return bytes;
}

async function throwOne(index: number): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const { kind, to, port } = order;
  const socket =
    kind === "unix"
      ? connect(to)
      : kind === "tls"
        ? tlsConnect({ host: to, port, rejectUnauthorized: false })
        : connect({ host: to, port });
  socket.on("error", () => resolve());
  socket.on("close", () => resolve());
  socket.on("data", () => socket.destroy());
  socket.on(kind === "tls" ? "secureConnect" : "connect", () => socket.write(piece(index), () => socket.end()));
  socket.setTimeout(300, () => socket.destroy());
  await promise;
}

if (order.kind === "udp") {
  const socket = await Bun.udpSocket({
    connect: { hostname: order.to, port: order.port },
    socket: { error: () => undefined },
  });
  for (let index = 0; index < order.count; index++) {
    try {
      socket.send(piece(index));
    } catch {
      // the host says that nobody listens there: a closed port takes no garbage
    }
    if (index % 50 === 49) await Bun.sleep(5);
  }
  socket.close();
} else {
  for (let index = 0; index < order.count; index += 10) {
    await Promise.all(Array.from({ length: 10 }, (_, i) => throwOne(index + i)));
  }
}
console.log(`thrown ${order.count}`);
process.exit(0);
