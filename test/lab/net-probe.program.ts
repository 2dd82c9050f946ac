// Runs in the lab's hosts: answers on TCP and UDP with who asked, asks such servers, sends a stream to one, and renews a lease of iptables.
import { createSocket } from "node:dgram";
import { connect, createServer, isIPv6 } from "node:net";
import { hostname } from "node:os";
import { type PulseTarget, sendPulse } from "../../src/net/firewall/lease-pulse.ts";
import type { Probe } from "./net-hosts.ts";

/** A first datagram may die while the neighbour is asked for its address; TCP sends again by itself. */
const AGAIN_MS = 300;

const [mode = "", argument = ""] = process.argv.slice(2);
if (mode === "serve") await serve(argument.split(",").map(Number));
else if (mode === "ask") console.log(JSON.stringify(await Promise.all((JSON.parse(argument) as Probe[]).map(ask))));
else if (mode === "pulse") console.log(await sendPulse(JSON.parse(argument) as PulseTarget));
else if (mode === "stream") await stream(JSON.parse(argument) as Probe);
else throw new Error(`There is no mode "${mode}".`);

/** The answer is "host:port address-of-the-asker". */
async function serve(ports: readonly number[]): Promise<void> {
  const ready: Promise<void>[] = [];
  for (const port of ports) {
    const answer = (from = ""): string => `${hostname()}:${port} ${from.replace("::ffff:", "")}`;
    const server = createServer((socket) => {
      socket.on("error", () => undefined); // the asker is gone
      socket.end(answer(socket.remoteAddress));
    });
    ready.push(new Promise((resolve) => server.listen({ host: "::", port }, () => resolve())));
    for (const type of ["udp4", "udp6"] as const) {
      const socket = createSocket({ type, ipv6Only: type === "udp6" });
      socket.on("message", (_text, from) => socket.send(answer(from.address), from.port, from.address));
      socket.on("error", () => undefined); // an answer that finds no way
      ready.push(new Promise((resolve) => socket.bind(port, () => resolve())));
    }
  }
  await Promise.all(ready);
  console.log("serving");
}

/** The answer, or why there was none: "silence", or the kernel's word for it. */
function ask(probe: Probe): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  const silence = setTimeout(() => resolve("silence"), probe.waitMs);
  const failed = (error: Error): void => resolve("code" in error ? String(error.code) : error.message);
  if (probe.protocol === "tcp") {
    const socket = connect({
      host: probe.to,
      port: probe.port,
      ...(probe.from === undefined ? {} : { localAddress: probe.from }),
    });
    socket.on("data", (data) => resolve(data.toString()));
    socket.on("error", failed);
    return promise.finally(() => {
      clearTimeout(silence);
      socket.destroy();
    });
  }
  const socket = createSocket(isIPv6(probe.to) ? "udp6" : "udp4");
  socket.on("message", (data) => resolve(data.toString()));
  socket.on("error", failed);
  const send = (): void =>
    socket.send("?", probe.port, probe.to, (error) => {
      if (error !== null) failed(error);
    });
  let again: ReturnType<typeof setInterval> | undefined;
  socket.bind(probe.fromPort ?? 0, probe.from, () => {
    send();
    again = setInterval(send, AGAIN_MS);
  });
  return promise.finally(() => {
    clearTimeout(silence);
    clearInterval(again);
    socket.close();
  });
}

/** 100 datagrams a second until the process is told to stop; then how many were sent, and how many came back. */
async function stream(probe: Probe): Promise<void> {
  const socket = createSocket("udp4");
  let sent = 0;
  let back = 0;
  let stopped = false;
  socket.on("message", () => {
    back++;
  });
  process.on("SIGTERM", () => {
    stopped = true;
  });
  while (!stopped) {
    socket.send(String(sent++), probe.port, probe.to);
    if (sent === 10) console.log("streaming");
    await Bun.sleep(10);
  }
  for (let waited = 0; back < sent && waited < 100; waited++) await Bun.sleep(20);
  console.log(`stream ${sent} ${back}`);
  socket.close();
}
