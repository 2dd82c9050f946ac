// Runs in the lab's hosts: sends what could leak, kills a program at a chosen moment of its way up or down, and streams and echoes datagrams.
import { createSocket } from "node:dgram";
import { connect, isIPv6 } from "node:net";
import { enlargeReceiveBuffer } from "../../src/net/udp-options.ts";
import type { Streamed, StreamPlan } from "./client-lab.ts";
import { type KillPlan, killAtMoment } from "./kill-moment.ts";

/** A name asked for: "web.lab.example" A, with recursion desired (RFC 1035, section 4.1). */
const QUERY = Buffer.from("00010100000100000000000003776562036c6162076578616d706c650000010001", "hex");
const HEADER = "X: y\r\n"; // six bytes: no other probe has this length
/** What this process is too busy to take is no loss of the path's. */
const RECEIVE_BYTES = 4 * 1024 * 1024;

const [mode = "", argument = ""] = process.argv.slice(2);
if (mode === "probe") await probe();
else if (mode === "kill") console.log(JSON.stringify(await killAtMoment(JSON.parse(argument) as KillPlan)));
else if (mode === "echo") await echo(Number(argument));
else if (mode === "stream") console.log(JSON.stringify(await stream(JSON.parse(argument) as StreamPlan)));
else throw new Error(`There is no mode "${mode}".`);

/** UDP and TCP in both families to the web, also by connections from the first round, and names asked of three resolvers. */
async function probe(): Promise<void> {
  const ignore = (): undefined => undefined; // what cannot be sent does not leak
  const datagrams = [
    { to: "203.0.113.80", port: 9999, text: Buffer.from("higgs leak probe") },
    { to: "2001:db8:80::80", port: 9999, text: Buffer.from("higgs leak probe") },
    { to: "203.0.113.53", port: 53, text: QUERY },
    { to: "2001:db8:53::53", port: 53, text: QUERY },
    { to: "192.168.7.1", port: 53, text: QUERY },
  ].map((one) => ({ ...one, socket: createSocket(isIPv6(one.to) ? "udp6" : "udp4").on("error", ignore) }));
  await Promise.all(datagrams.map(({ socket }) => new Promise<void>((resolve) => socket.bind(0, () => resolve()))));
  const webs = ["203.0.113.80", "2001:db8:80::80"];
  const opened = webs.map((host) => {
    const socket = connect({ host, port: 80, noDelay: true }).on("error", ignore);
    socket.write("GET / HTTP/1.1\r\nHost: web\r\n");
    return socket;
  });
  for (let round = 1; ; round++) {
    for (const { socket, to, port, text } of datagrams) socket.send(text, port, to, ignore);
    for (const socket of opened) socket.write(HEADER);
    for (const host of webs) {
      const socket = connect({ host, port: 80 }).on("error", ignore);
      socket.on("connect", () => socket.end("GET / HTTP/1.0\r\n\r\n"));
      socket.setTimeout(2000, () => socket.destroy());
    }
    console.log(`round ${round}`);
    await Bun.sleep(100);
  }
}

async function echo(port: number): Promise<void> {
  const socket = await Bun.udpSocket({
    hostname: "0.0.0.0",
    port,
    socket: {
      data: (own, bytes, fromPort, from) => void own.send(bytes, fromPort, from),
      error: () => undefined,
    },
  });
  await enlargeReceiveBuffer(socket, RECEIVE_BYTES);
  console.log("echoing");
}

/** So many datagrams a second, each with its number, until all are sent or SIGTERM; then waits for those that are under way. */
async function stream(plan: StreamPlan): Promise<Streamed> {
  const back = new Set<number>();
  let order = -1;
  let late = 0;
  const socket = await Bun.udpSocket({
    hostname: "0.0.0.0",
    socket: {
      data(_socket, bytes) {
        const number = Buffer.from(bytes).readUInt32BE();
        if (number < order) late++;
        order = Math.max(order, number);
        back.add(number);
      },
      error: () => undefined,
    },
  });
  await enlargeReceiveBuffer(socket, RECEIVE_BYTES);
  let isOver = false;
  process.once("SIGTERM", () => (isOver = true));
  const start = performance.now();
  let sent = 0;
  while (sent < plan.count && !isOver) {
    const due = Math.min(plan.count, Math.floor(((performance.now() - start) * plan.perS) / 1000));
    for (; sent < due; sent++) {
      const bytes = Buffer.alloc(64);
      bytes.writeUInt32BE(sent);
      socket.send(bytes, plan.port, plan.to);
      if (sent === plan.perS) console.log("streaming");
    }
    await Bun.sleep(2);
  }
  const tookMs = performance.now() - start;
  for (let waited = 0; back.size < sent && waited < 100; waited++) await Bun.sleep(20);
  socket.close();
  return { sent, back: back.size, late, perS: Math.round((sent * 1000) / tookMs) };
}
