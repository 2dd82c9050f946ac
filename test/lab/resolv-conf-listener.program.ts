// Stands in for the helper's socket unit on a host without systemd: each connection starts the helper that sets /etc/resolv.conf.
import { spawn } from "node:child_process";
import { chmodSync } from "node:fs";
import { createServer } from "node:net";

const [socketPath = "", ...helper] = process.argv.slice(2);
const [program = "", ...args] = helper;

const server = createServer({ allowHalfOpen: true }, (socket) => {
  const child = spawn(program, args, { stdio: ["pipe", "pipe", "ignore"] });
  socket.pipe(child.stdin);
  child.stdout.pipe(socket);
  socket.on("error", () => child.kill("SIGKILL"));
  child.stdin.on("error", () => undefined); // it has read what it wanted
});
server.listen(socketPath, () => {
  chmodSync(socketPath, 0o600);
  console.log("listening");
});
