// A server as a process of its own, which a test can kill: `STATE_DIR=… bun server-process.program.ts`; it prints one line of JSON when it listens.
// Over IPC it takes { name, tags } and answers with the name once the change is made.
import { silentLogger } from "../../src/base/log.ts";
import { openServerState } from "../../src/server/first-start.ts";
import { higgsServer } from "../../src/server/server.ts";
import { NO_LIMITS } from "./server-support.ts";

const state = await openServerState({
  stateDir: process.env["STATE_DIR"] ?? "",
  databaseUrl: null,
  tls: { kind: "self", hosts: ["127.0.0.1"] },
  networkRange: null,
  log: silentLogger,
});
const server = await higgsServer(
  { database: state.database, identity: state.identity, tls: state.tls, log: silentLogger },
  {
    listen: { host: "127.0.0.1", port: 0 },
    publicNames: [{ host: "127.0.0.1", port: 0 }],
    stunPort: null,
    limits: NO_LIMITS,
    version: "0.0.0-test",
  },
);
const invites: string[] = [];
for (let i = 0; i < Number(process.env["INVITES"] ?? 0); i++)
  invites.push((await server.invite({ role: "node" })).text);
process.on("message", (order: { readonly name: string; readonly tags: readonly string[] }) => {
  void server.tag(order.name, order.tags).then(() => process.send?.(order.name));
});
const machines = server.machines().map(({ id, name, ipv4, tags }) => ({ id, name, ipv4, tags }));
console.log(JSON.stringify({ port: server.port, certPem: state.tls.certPem, spki: state.tls.spki, invites, machines }));
