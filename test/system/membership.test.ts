import { afterEach, expect, test } from "bun:test";
import { cp, rm, unlink } from "node:fs/promises";
import { join } from "node:path";
import { parseExitChoice } from "../../src/client/exit-choice.ts";
import { ServerLink } from "../../src/peer/server-link.ts";
import { EnrolmentStore, readEnrolment } from "../../src/peer/enrolment.ts";
import { machineKeys } from "../../src/peer/identity.ts";
import { openStateDir } from "../../src/peer/state-dir.ts";
import { failureOf } from "../unit/support/failure.ts";
import { enrolAt, enrolWith, joinAgain, NEVER, startClient, startNode, talk, testLog } from "./machine-support.ts";
import { startServer, temporaryDir, type TestServer, until } from "./server-support.ts";

const stack = new Set<AsyncDisposableStack>();
afterEach(async () => {
  for (const one of stack) await one.disposeAsync();
  stack.clear();
});

/** Ends with the test, last made first. */
function scene(): AsyncDisposableStack {
  const made = new AsyncDisposableStack();
  stack.add(made);
  return made;
}

async function nodeAt(all: AsyncDisposableStack, server: TestServer, name: string) {
  const { dir } = all.use(await enrolAt(server, "node", name));
  return all.use(await startNode(dir));
}

async function clientAt(all: AsyncDisposableStack, server: TestServer, name: string, exit?: string) {
  const { dir } = all.use(await enrolAt(server, "client", name));
  return all.use(await startClient(dir, exit));
}

/** Told when the connection is cut, and at each attempt to come back. */
const GONE = new Set(["machine-revoked", "machine-unknown"]);

test("a node and a client join, meet, and talk through the relay", async () => {
  const all = scene();
  const server = all.use(await startServer());
  const node = await nodeAt(all, server, "home");
  const client = await clientAt(all, server, "laptop");
  await client.connection.connected(NEVER);
  await talk(client, node, "hello");
  expect(client.connection.exit?.name as string).toBe("home");
  expect(client.connection.trouble).toBeNull();
  const { ipv4, ipv6 } = node.store.value;
  expect(client.wireGuard.allowedIps(node.keys.wireGuardKey)).toEqual(
    ["0.0.0.0/0", "::/0", `${ipv4}/32`, `${ipv6}/128`].sort(),
  );
  const own = client.store.value;
  expect(node.wireGuard.allowedIps(client.keys.wireGuardKey)).toEqual([`${own.ipv4}/32`, `${own.ipv6}/128`].sort());
  expect(client.system.routes?.families).toEqual({ 4: "tunnel", 6: "tunnel" });
  expect(client.system.dns?.servers).toEqual([ipv4, ipv6]);
  expect(server.server.sessions()).toHaveLength(1);
});

test("two clients and two nodes: everyone talks to their own exit, and one client moves to the other", async () => {
  const all = scene();
  const server = all.use(await startServer());
  const home = await nodeAt(all, server, "home");
  const cabin = await nodeAt(all, server, "cabin");
  const laptop = await clientAt(all, server, "laptop", "home");
  const phone = await clientAt(all, server, "phone", "cabin");
  await Promise.all([laptop.connection.connected(NEVER), phone.connection.connected(NEVER)]);
  await talk(laptop, home, "laptop");
  await talk(phone, cabin, "phone");
  expect(home.wireGuard.heard("phone there")).toBe(false);
  expect(cabin.wireGuard.heard("laptop there")).toBe(false);
  laptop.connection.use(parseExitChoice("cabin"));
  await talk(laptop, cabin, "moved");
  await until(() => laptop.wireGuard.keys().join() === cabin.keys.wireGuardKey, "one peer");
  expect(home.wireGuard.heard("moved there")).toBe(false);
});

test("a server that starts again costs no enrolment, and traffic goes on by itself", async () => {
  const all = scene();
  const stateDir = await temporaryDir();
  const first = await startServer({ stateDir, keepState: true });
  const port = first.server.port;
  const node = await nodeAt(all, first, "home");
  const client = await clientAt(all, first, "laptop");
  await client.connection.connected(NEVER);
  await talk(client, node, "before");
  const routes = client.system.routes;
  await first[Symbol.asyncDispose]();
  await until(() => client.connection.trouble !== null && !client.connection.membership.control.online, "the loss");
  expect(client.connection.state.kind).toBe("connected");
  expect(client.system.routes).toEqual(routes);
  expect(client.wireGuard.keys()).toEqual([node.keys.wireGuardKey]);
  const enrolled = [node.store.value.id, client.store.value.id].sort();
  const listen = { host: "127.0.0.1", port };
  const second = all.use(await startServer({ stateDir, server: { listen, publicNames: [listen] } }));
  await talk(client, node, "after");
  await until(() => client.connection.trouble === null, "no trouble left");
  expect(second.server.status().machines).toEqual({ total: 2, online: 2 });
  expect([node.store.value.id, client.store.value.id].sort()).toEqual(enrolled);
});

test("a client that starts again is the same machine, and meets its exit again", async () => {
  const all = scene();
  const server = all.use(await startServer());
  const node = await nodeAt(all, server, "home");
  const { dir } = all.use(await enrolAt(server, "client", "laptop"));
  const first = await startClient(dir);
  await first.connection.connected(NEVER);
  await first[Symbol.asyncDispose]();
  const client = all.use(await startClient(dir));
  await client.connection.connected(NEVER);
  await talk(client, node, "again");
  expect(client.keys.wireGuardKey).toBe(first.keys.wireGuardKey);
  expect(client.trust.list().map((machine) => machine.name as string)).toEqual(["home"]);
  expect(server.server.status().machines.total).toBe(2);
});

test("an invite that was used makes no second machine, and the same one again", async () => {
  const all = scene();
  const server = all.use(await startServer());
  const invite = await server.invite({ role: "client" });
  const { dir } = all.use(await enrolWith(invite, "laptop"));
  expect(await failureOf(enrolWith(invite, "thief"))).toMatchObject({ name: "ServerRefused", code: "invite-used" });
  const before = await readEnrolment(dir, "client");
  await unlink(join(dir.path, "enrolment.json")); // as if the answer was lost
  await joinAgain(dir, invite);
  expect((await readEnrolment(dir, "client")).id).toBe(before.id);
});

test("a token that the server has forgotten is earned anew without a person", async () => {
  const all = scene();
  const stateDir = await temporaryDir();
  const first = await startServer({ stateDir, keepState: true });
  const listen = { host: "127.0.0.1", port: first.server.port };
  const { dir } = all.use(await enrolAt(first, "client", "laptop"));
  const store = new EnrolmentStore(dir, await readEnrolment(dir, "client"));
  const link = new ServerLink({ store, keys: await machineKeys(dir), log: testLog });
  const session = await link.session(NEVER);
  expect(await link.session(NEVER)).toBe(session);
  await first[Symbol.asyncDispose]();
  const server = all.use(await startServer({ stateDir, server: { listen, publicNames: [listen] } }));
  const self = `/clients/${store.value.id}`;
  expect((await server.call("DELETE", self, { token: session.token })).status).toBe(401);
  link.invalidate(session);
  const next = await link.session(NEVER);
  expect(next.token).not.toBe(session.token);
  expect((await server.call("DELETE", self, { token: next.token })).status).toBeLessThan(300);
});

test("a node that was revoked is gone for the others at once, and knows why", async () => {
  const all = scene();
  const server = all.use(await startServer());
  const node = await nodeAt(all, server, "home");
  const client = await clientAt(all, server, "laptop");
  await client.connection.connected(NEVER);
  await talk(client, node, "hello");
  await server.server.revoke("home");
  await until(() => client.wireGuard.keys().length === 0, "the peer to go");
  expect(client.connection.state.kind).toBe("connected");
  expect(client.system.routes?.families[4]).toBe("tunnel");
  expect(client.wireGuard.say(node.keys.wireGuardKey, "lost")).toBe(false);
  await until(() => GONE.has(node.membership.trouble?.code ?? ""), "the reason at the node");
});

test("a client that was revoked is no peer of the node any more", async () => {
  const all = scene();
  const server = all.use(await startServer());
  const node = await nodeAt(all, server, "home");
  const client = await clientAt(all, server, "laptop");
  await client.connection.connected(NEVER);
  await talk(client, node, "hello");
  await server.server.revoke("laptop");
  await until(() => node.wireGuard.keys().length === 0, "the peer to go");
  await until(() => GONE.has(client.connection.trouble?.code ?? ""), "the reason at the client");
});

test("a machine that was renamed is the same to the others, and its old name stays its own", async () => {
  const all = scene();
  const server = all.use(await startServer());
  const node = await nodeAt(all, server, "home");
  const client = await clientAt(all, server, "laptop");
  await client.connection.connected(NEVER);
  await server.server.rename("home", "attic");
  const { map } = client.connection.membership;
  await node.membership[Symbol.asyncDispose](); // it hears of its name with the next welcome
  const again = all.use(await startNode(node.dir));
  await until(() => map.named("attic") !== undefined, "the new name");
  expect(map.named("attic")?.machine.wireGuard).toBe(again.keys.wireGuardKey);
  await talk(client, again, "renamed");
  const other = await nodeAt(all, server, "home");
  await until(() => map.refusals().length > 0, "the refusal");
  expect(map.refusals()).toMatchObject([
    { code: "identity-changed", remedy: expect.stringContaining("higgs trust forget home") as unknown },
  ]);
  expect(client.wireGuard.sentTo.has(other.keys.wireGuardKey)).toBe(false);
});

test("a machine whose state was copied takes turns with its copy, and says so", async () => {
  const all = scene();
  const server = all.use(await startServer());
  const { dir } = all.use(await enrolAt(server, "client", "laptop"));
  const copyPath = await temporaryDir();
  all.defer(() => rm(copyPath, { recursive: true, force: true }));
  await cp(dir.path, copyPath, { recursive: true });
  const client = all.use(await startClient(dir));
  await until(() => client.connection.membership.control.online, "the first");
  all.use(await startClient(await openStateDir(copyPath)));
  const trouble = await until(
    () => (client.connection.trouble?.code === "replaced" ? client.connection.trouble : null),
    "the reason",
  );
  expect(trouble.remedy).toContain("must not share a state folder");
  expect(server.server.status().machines.total).toBe(1);
});
