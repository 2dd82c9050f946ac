import { afterEach, expect, test } from "bun:test";
import { rm } from "node:fs/promises";
import { X509Certificate } from "node:crypto";
import { toBase64Url, toHex } from "../../src/base/bytes.ts";
import { parseIp } from "../../src/base/ip.ts";
import { silentLogger } from "../../src/base/log.ts";
import { pinnedTls, pinOf } from "../../src/net/tls.ts";
import { EnrolmentStore, readEnrolment } from "../../src/peer/enrolment.ts";
import { machineKeys } from "../../src/peer/identity.ts";
import { openDoor } from "../../src/peer/server-door.ts";
import { ServerLink } from "../../src/peer/server-link.ts";
import { openStateDir } from "../../src/peer/state-dir.ts";
import { type ProofResponse, proofResponseSchema } from "../../src/proto/api.ts";
import type { Invite } from "../../src/proto/invite.ts";
import { identityKeyOf, newIdentity, sign, type SpkiHash } from "../../src/proto/keys.ts";
import { serverProofMessage } from "../../src/proto/proof.ts";
import { makeSelfSigned } from "../../src/server/certificate.ts";
import { failureOf } from "../unit/support/failure.ts";
import { HostileServer } from "./hostile-server.ts";
import { enrolWith, joinAgain, NEVER, startClient } from "./machine-support.ts";
import { startServer, temporaryDir, until } from "./server-support.ts";

let all = new AsyncDisposableStack();
afterEach(async () => {
  await all.disposeAsync();
  all = new AsyncDisposableStack();
});

/** A machine with this invite tries to join at `port`; what came of it. */
async function attempt(invite: Invite, port: number): Promise<unknown> {
  const path = await temporaryDir();
  all.defer(() => rm(path, { recursive: true, force: true }));
  const dir = await openStateDir(path);
  return failureOf(joinAgain(dir, { ...invite, servers: [{ host: "127.0.0.1", port }] }));
}

/** True when anything that a server was told holds the invite's secret, in whatever spelling. */
function holdsSecret(heard: readonly string[], invite: Invite): boolean {
  const { secret } = invite;
  const spellings = [toBase64Url(secret), secret.toBase64(), toHex(secret), String.fromCharCode(...secret)];
  return heard.some((text) => spellings.some((spelling) => text.includes(spelling)));
}

/** A server of another identity, which proves itself as the test says. */
async function impostor(prove: (nonce: string, sound: ProofResponse) => Response | Promise<Response>) {
  return all.use(await HostileServer.start({ prove }));
}

/** The network of the invite, which the impostors are not of; its server is not even running. */
function inviteOf(identity = newIdentity()): Invite {
  return {
    servers: [{ host: "127.0.0.1", port: 1 }],
    network: identityKeyOf(identity),
    id: "invite01",
    secret: crypto.getRandomValues(new Uint8Array(32)),
    role: "client",
    name: null,
    tags: [],
  };
}

async function expectSilence(server: HostileServer, invite: Invite, code: string): Promise<void> {
  expect(await attempt(invite, server.port)).toMatchObject({ code });
  expect(server.heard.length).toBeGreaterThan(0); // it was asked for its proof, and for nothing else
  for (const text of server.heard) expect(text).toStartWith(`POST https://127.0.0.1:${server.port}/api/v1/proof`);
  expect(holdsSecret(server.heard, invite)).toBe(false);
}

test("a server that proves itself is told the secret, and so a test would see it", async () => {
  const server = all.use(await HostileServer.start());
  const invite = server.invite("client");
  all.use(await enrolWith(invite, "laptop"));
  expect(holdsSecret(server.heard, invite)).toBe(true);
});

test("a server of another network is told nothing", async () => {
  const server = await impostor((_nonce, sound) => Response.json(sound));
  await expectSilence(server, inviteOf(), "server-not-proven");
});

test("a server that names the right network and signs with another identity is told nothing", async () => {
  const invite = inviteOf();
  const server = await impostor((_nonce, sound) => Response.json({ ...sound, network: invite.network }));
  await expectSilence(server, invite, "server-not-proven");
});

test("a proof of an earlier nonce is worth nothing", async () => {
  const identity = newIdentity();
  const server: HostileServer = all.use(
    await HostileServer.start({
      identity,
      prove: () => Response.json(server.soundProof(toBase64Url(new Uint8Array(32)))),
    }),
  );
  await expectSilence(server, server.invite("client"), "server-not-proven");
});

test("a proof for another certificate is worth nothing", async () => {
  const identity = newIdentity();
  const spki = toBase64Url(new Uint8Array(32).fill(9)) as SpkiHash;
  const server = all.use(
    await HostileServer.start({
      identity,
      prove(nonce, sound) {
        const nonceBytes = Uint8Array.fromBase64(nonce, { alphabet: "base64url" });
        const message = serverProofMessage({ nonce: nonceBytes, spki, names: sound.names });
        return Response.json({ ...sound, spki, signature: sign("higgs server proof v1", message, identity) });
      },
    }),
  );
  await expectSilence(server, server.invite("client"), "server-not-proven");
});

test("a proof with other names, or signed for something else, is worth nothing", async () => {
  const identity = newIdentity();
  const renamed = all.use(
    await HostileServer.start({
      identity,
      prove: (_nonce, sound) => Response.json({ ...sound, names: ["evil.example:443"] }),
    }),
  );
  await expectSilence(renamed, renamed.invite("client"), "server-not-proven");
  const confused = all.use(
    await HostileServer.start({
      identity,
      prove: (nonce, sound) =>
        Response.json({ ...sound, signature: sign("higgs enrolment v1", new TextEncoder().encode(nonce), identity) }),
    }),
  );
  await expectSilence(confused, confused.invite("client"), "server-not-proven");
});

test("somebody in between, with a certificate of their own, relays the real server's proof in vain", async () => {
  const real = all.use(await startServer());
  const invite = await real.invite({ role: "client" });
  const relayed: ProofResponse[] = [];
  const ask = async (nonce: string): Promise<ProofResponse> => {
    const { body } = await real.call("POST", "/proof", { body: { nonce } });
    const proof = proofResponseSchema.parse(body);
    relayed.push(proof);
    return proof;
  };
  const asItIs = await impostor(async (nonce) => Response.json(await ask(nonce)));
  await expectSilence(asItIs, invite, "server-not-proven");
  const bent = await impostor(async (nonce, own) => Response.json({ ...(await ask(nonce)), spki: own.spki }));
  await expectSilence(bent, invite, "server-not-proven");
  expect(relayed).toHaveLength(2);
  all.use(await enrolWith(invite, "laptop")); // the invite is still good, for the real one
});

test("an answer that is no proof ends the attempt", async () => {
  const answers: (() => Response)[] = [
    () => new Response("<html>hello</html>", { headers: { "content-type": "text/html" } }),
    () => new Response(null, { status: 204 }),
    () => Response.json({}),
    () => Response.json([]),
    () => new Response("{", { status: 500 }),
    () =>
      Response.json(
        { type: "x", title: "x", status: 403, detail: "please send the secret", code: "invite-used" },
        { status: 403 },
      ),
  ];
  for (const answer of answers) await expectSilence(await impostor(answer), inviteOf(), "server-not-proven");
});

test("a redirect is not followed", async () => {
  const real = all.use(await HostileServer.start());
  const server = await impostor(() => Response.redirect(`https://127.0.0.1:${real.port}/api/v1/proof`, 307));
  expect(await attempt(real.invite("client"), server.port)).toBeInstanceOf(Error);
  expect(real.heard).toEqual([]);
});

test("an endless proof is cut off", async () => {
  let pulled = 0;
  const server = await impostor(
    () =>
      new Response(
        new ReadableStream({
          pull(controller) {
            pulled++;
            controller.enqueue(new Uint8Array(256 * 1024).fill(0x20));
          },
        }),
      ),
  );
  await expectSilence(server, inviteOf(), "server-not-proven");
  expect(pulled).toBeLessThan(1000);
});

test("request() ends with its signal also while the answer's body is on its way", async () => {
  const server = await impostor(() => {
    const body = new ReadableStream({ start: (controller) => controller.enqueue(new TextEncoder().encode("{")) });
    return new Response(body); // which never ends
  });
  const controller = new AbortController();
  const target = { host: "127.0.0.1", port: server.port };
  const opening = failureOf(openDoor(target, inviteOf().network, { addresses: [], pin: null }, controller.signal));
  await until(() => server.heard.length > 0, "the question");
  const reason = new Error("enough");
  controller.abort(reason);
  expect(await opening).toBe(reason);
});

test("what is no TLS server is named as such", async () => {
  const plain = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response("hello") });
  all.defer(() => plain.stop(true));
  expect(await attempt(inviteOf(), plain.port ?? 0)).toMatchObject({ code: "server-no-tls" });
  const told: string[] = [];
  const garbage = Bun.listen({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      data(socket, data) {
        told.push(data.toString("latin1"));
        socket.write(crypto.getRandomValues(new Uint8Array(500)).fill(0x15, 0, 3));
        socket.end();
      },
    },
  });
  all.defer(() => garbage.stop(true));
  const invite = inviteOf();
  const thrown = await attempt(invite, garbage.port);
  expect(["server-no-tls", "server-unreachable"]).toContain((thrown as { code: string }).code);
  expect(holdsSecret(told, invite)).toBe(false);
});

test("where nobody listens, the server is said to be unreachable", async () => {
  const gone = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => undefined } });
  const { port } = gone;
  gone.stop(true);
  expect(await attempt(inviteOf(), port)).toMatchObject({ code: "server-unreachable" });
});

test("an enrolled machine tells a server that took the address over nothing of its own", async () => {
  const real = await HostileServer.start();
  const { dir } = all.use(await enrolWith(real.invite("client"), "laptop"));
  const { port } = real;
  await real[Symbol.asyncDispose]();
  const { certPem, keyPem } = await makeSelfSigned(["127.0.0.1"]);
  const heard: string[] = [];
  const thief = Bun.serve({
    hostname: "127.0.0.1",
    port,
    tls: { cert: certPem, key: keyPem },
    fetch(request) {
      heard.push(new URL(request.url).pathname);
      return new Response(null, { status: 404 });
    },
  });
  all.defer(() => thief.stop(true));
  const client = all.use(await startClient(dir));
  await until(() => client.connection.trouble?.code === "server-not-proven", "the refusal");
  expect(new Set(heard)).toEqual(new Set(["/api/v1/proof"]));
  expect((await readEnrolment(dir, "client")).network).toBe(identityKeyOf(real.identity));
});

test("a certificate that is renewed is proven anew, with no new invite", async () => {
  const identity = newIdentity();
  const first = all.use(await HostileServer.start({ identity }));
  const { dir } = all.use(await enrolWith(first.invite("client"), "laptop"));
  const before = await readEnrolment(dir, "client");
  const second = all.use(await HostileServer.start({ identity }));
  const servers = [{ host: "127.0.0.1", port: second.port }] as const;
  const hints = { addresses: before.servers[0]?.addresses ?? [], pin: before.servers[0]?.pin ?? null };
  const door = await openDoor(servers[0], before.network, hints, NEVER);
  expect(door.pin.certPem).not.toBe(before.servers[0]?.pin?.certPem ?? "");
});

test("an address of the server that is dead was tried first at every connection, for ever", async () => {
  const server = all.use(await HostileServer.start());
  const target = { host: "127.0.0.1", port: server.port };
  const ip = (text: string) => parseIp(text) ?? expect.unreachable();
  const many = Array.from({ length: 9 }, (_, at) => ip(`127.0.1.${at + 1}`));
  const addresses = [ip("127.0.0.2"), ip("::1"), ip("127.0.0.1"), ...many];
  const door = await openDoor(target, identityKeyOf(server.identity), { addresses, pin: null }, NEVER);
  expect(door.endpoint.address).toBe(ip("127.0.0.1"));
  expect(door.addresses).toEqual([ip("127.0.0.1"), ...many.slice(0, 7)]);
  const few = { addresses: addresses.slice(0, 3), pin: door.pin };
  const again = await openDoor(target, identityKeyOf(server.identity), few, NEVER);
  expect(again.addresses).toEqual([ip("127.0.0.1"), ip("::1")]); // the other family may be all that the next network has
});

test("each request checks the key on a connection of its own", async () => {
  const [mine, other] = [await makeSelfSigned(["127.0.0.1"]), await makeSelfSigned(["127.0.0.1"])];
  const ports: (number | undefined)[] = [];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    tls: { cert: mine.certPem, key: mine.keyPem },
    fetch(request, from) {
      ports.push(from.requestIP(request)?.port);
      return new Response("hello");
    },
  });
  all.defer(() => server.stop(true));
  const get = (certPem: string) =>
    fetch(`https://127.0.0.1:${server.port}/`, { tls: pinnedTls(pinOf(new X509Certificate(certPem)), "127.0.0.1") });
  await (await get(mine.certPem)).text();
  // A connection that was opened under one pin must not serve a request under another.
  expect(await failureOf(get(other.certPem))).toBeInstanceOf(Error);
  await (await get(mine.certPem)).text();
  expect(new Set(ports).size).toBe(2);
});

test("a token is earned anew a minute before it runs out", async () => {
  const server = all.use(await HostileServer.start({ tokenS: 61 }));
  const { dir } = all.use(await enrolWith(server.invite("client"), "laptop"));
  const store = new EnrolmentStore(dir, await readEnrolment(dir, "client"));
  const link = new ServerLink({ store, keys: await machineKeys(dir), log: silentLogger });
  const first = await link.session(NEVER);
  expect(await link.session(NEVER)).toBe(first);
  let next = first;
  while (next === first) {
    next = await link.session(NEVER);
    await Bun.sleep(10);
  }
  expect(next.token).not.toBe(first.token);
});
