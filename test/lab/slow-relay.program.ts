// Runs in a lab host: a UDP relay between two ends that takes its time, as the old path of a tunnel that is to move.
import { createSocket } from "node:dgram";
import { isIPv6 } from "node:net";

/** `PORT DELAY-MS ADDRESS:PORT ADDRESS:PORT`, with the addresses as the kernel writes them and a space before each port. */
const [port, delayMs, a = "", aPort, b = "", bPort] = process.argv.slice(2);
const ends = [
  { address: a, port: Number(aPort) },
  { address: b, port: Number(bPort) },
] as const;
let passed = 0;
const socket = createSocket({ type: isIPv6(a) ? "udp6" : "udp4", recvBufferSize: 4 * 1024 * 1024 });
socket.on("error", () => undefined);
socket.on("message", (bytes, from) => {
  const at = ends.findIndex((end) => end.address === from.address && end.port === from.port);
  const to = ends[1 - at];
  if (at < 0 || to === undefined) return;
  passed++;
  setTimeout(() => socket.send(bytes, to.port, to.address), Number(delayMs));
});
process.on("SIGUSR1", () => console.log(`passed ${passed}`));
socket.bind(Number(port), () => console.log("relaying"));
