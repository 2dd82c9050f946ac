import { afterAll, beforeAll, describe, expect, jest, test } from "bun:test";
import { fromBase64Url, toBase64Url } from "../../src/base/bytes.ts";
import { parseInvite } from "../../src/proto/invite.ts";
import { type IdentityKey, identityKeyOf, type Signature, type SpkiHash, verify } from "../../src/proto/keys.ts";
import { serverProofMessage } from "../../src/proto/proof.ts";
import { DEFAULT_LIMITS } from "../../src/server/options.ts";
import { failureOf } from "../unit/support/failure.ts";
import {
  codeOf,
  enrolMachine,
  newcomer,
  register,
  registerBody,
  startServer,
  type TestServer,
} from "./server-support.ts";

let server: TestServer;
beforeAll(async () => {
  server = await startServer();
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
});

describe("POST /proof", () => {
  test("signs the nonce with this certificate and these names, by the network's identity", async () => {
    const nonce = crypto.getRandomValues(new Uint8Array(32));
    const { status, body } = await server.call("POST", "/proof", { body: { nonce: toBase64Url(nonce) } });
    expect(status).toBe(200);
    const proof = body as { network: IdentityKey; spki: SpkiHash; names: string[]; signature: Signature };
    expect(proof.network).toBe(server.server.network);
    expect(proof.spki).toBe(server.spki);
    expect(proof.names).toEqual([`127.0.0.1:${server.server.port}`]);
    const message = serverProofMessage({ nonce, spki: proof.spki, names: proof.names });
    expect(verify("higgs server proof v1", message, { key: proof.network, signature: proof.signature })).toBe(true);
    const other = serverProofMessage({ nonce: nonce.toReversed(), spki: proof.spki, names: proof.names });
    expect(verify("higgs server proof v1", other, { key: proof.network, signature: proof.signature })).toBe(false);
  });
});

describe("enrolment", () => {
  test("fifty at once with one invite make exactly one machine", async () => {
    const invite = await server.invite({ role: "node", name: "fifty" });
    const before = server.server.machines().length;
    const answers = await Promise.all(Array.from({ length: 50 }, () => register(server, invite, newcomer())));
    expect(answers.length).toBe(50);
    expect(answers.filter((answer) => answer.status === 200).length).toBe(1);
    for (const answer of answers.filter((one) => one.status !== 200)) {
      expect([answer.status, answer.body.code]).toEqual([403, "invite-used"]);
    }
    expect(server.server.machines().length).toBe(before + 1);
  });

  test("fifty at once of the same machine get the same machine", async () => {
    const invite = await server.invite({ role: "client" });
    const who = newcomer();
    const answers = await Promise.all(Array.from({ length: 50 }, () => register(server, invite, who)));
    expect(new Set(answers.map((answer) => answer.body.id)).size).toBe(1);
    expect(answers.every((answer) => answer.status === 200)).toBe(true);
  });

  test("a retry of the same machine gets the same one, also after the invite has expired; another machine does not", async () => {
    const invite = await server.invite({ role: "node", expiresInMs: 60_000 });
    const who = newcomer();
    const first = await register(server, invite, who);
    jest.setSystemTime(Date.now() + 61_000);
    try {
      expect((await register(server, invite, who)).body).toEqual(first.body);
      expect((await register(server, invite, newcomer())).body.code).toBe("invite-used");
    } finally {
      jest.setSystemTime();
    }
  });

  test("refuses an expired invite, and leaves it unused", async () => {
    const invite = await server.invite({ role: "node", expiresInMs: 60_000 });
    jest.setSystemTime(Date.now() + 61_000);
    try {
      expect((await register(server, invite, newcomer())).body.code).toBe("invite-expired");
    } finally {
      jest.setSystemTime();
    }
    expect((await register(server, invite, newcomer())).status).toBe(200);
  });

  test("refuses an invite for another role, one that was taken back, and a wrong secret or id", async () => {
    const forNode = await server.invite({ role: "node" });
    expect((await register(server, forNode, newcomer(), { role: "client" })).body.code).toBe("invite-wrong-role");
    const wrongSecret = { ...forNode, secret: forNode.secret.with(0, (forNode.secret[0] ?? 0) ^ 1) };
    expect((await register(server, wrongSecret, newcomer())).body.code).toBe("invite-unknown");
    expect((await register(server, { ...forNode, id: "AAAAAAAA" }, newcomer())).body.code).toBe("invite-unknown");
    await server.server.revokeInvite(forNode.id);
    expect((await register(server, forNode, newcomer())).body.code).toBe("invite-revoked");
  });

  test("takes an invite as often as it allows and no more", async () => {
    const invite = await server.invite({ role: "client", uses: 3 });
    const answers = await Promise.all(Array.from({ length: 10 }, () => register(server, invite, newcomer())));
    expect(answers.filter((answer) => answer.status === 200).length).toBe(3);
  });

  test("refuses a signature of another key, for another server's certificate, and for another WireGuard key", async () => {
    const invite = await server.invite({ role: "node" });
    const who = newcomer();
    const bodies = [
      { ...registerBody(server, invite, who), identity: identityKeyOf(newcomer().identity) },
      registerBody(server, invite, who, { spki: "A".repeat(43) as SpkiHash }),
      { ...registerBody(server, invite, who), wireGuard: newcomer().wireGuard },
    ];
    for (const body of bodies) {
      const answer = await server.call("POST", "/nodes/register", { body });
      expect([answer.status, answer.body.code]).toEqual([401, "enrolment-proof"]);
    }
    expect((await register(server, invite, who)).status).toBe(200);
  });

  test("gives each machine its own addresses and name for life, and a revoked one's to nobody", async () => {
    const first = await enrolMachine(server, "node", "addressed");
    await server.server.revoke("addressed");
    const invite = await server.invite({ role: "node", uses: 2 });
    const again = (nameIsChosen: boolean) => register(server, invite, newcomer(), { name: "addressed", nameIsChosen });
    expect((await again(true)).body.code).toBe("name-taken");
    const second = (await again(false)).body;
    expect(second.name).toBe("addressed-2");
    expect(second.ipv4).not.toBe(first.ipv4);
    expect(second.ipv6).not.toBe(first.ipv6);
  });

  test("numbers a name that nobody chose, refuses a chosen one that is taken, and lets the invite's own win", async () => {
    const invite = await server.invite({ role: "client", uses: 5 });
    const named = (nameIsChosen: boolean) => register(server, invite, newcomer(), { name: "laptop", nameIsChosen });
    expect((await named(true)).body.name).toBe("laptop");
    expect((await named(false)).body.name).toBe("laptop-2");
    expect((await named(false)).body.name).toBe("laptop-3");
    const taken = await named(true);
    expect([taken.status, taken.body.code]).toEqual([409, "name-taken"]);
    const fixed = await server.invite({ role: "client", name: "anna" });
    expect((await register(server, fixed, newcomer(), { name: "laptop", nameIsChosen: true })).body.name).toBe("anna");
    expect(await codeOf(server.server.invite({ role: "client", name: "anna" }))).toBe("name-taken");
    // Removing the machine would not free its name, so nothing may say so.
    for (const why of ["there is one", "there was one"]) {
      const refused = await failureOf(server.server.invite({ role: "client", name: "anna" }));
      expect(String(refused)).toContain(why);
      expect(String((refused as { remedy?: string }).remedy)).not.toContain("revoke");
      if (why === "there is one") await server.server.revoke("anna");
    }
  });

  test("numbers the longest name without making it longer", async () => {
    const invite = await server.invite({ role: "client", uses: 2 });
    const name = "a".repeat(63);
    await register(server, invite, newcomer(), { name });
    expect((await register(server, invite, newcomer(), { name })).body.name).toBe(`${"a".repeat(58)}-2`);
  });

  test.each([
    "",
    "-",
    "a-",
    "UPPER",
    "a.b",
    "a b",
    "a\n b",
    "ä",
    "a'; DROP TABLE machines; --",
    "../../etc/passwd",
    "a\u0000",
    "$(reboot)",
    "a".repeat(64),
  ])("refuses the name %j", async (name) => {
    const invite = await server.invite({ role: "node" });
    const answer = await server.call("POST", "/nodes/register", {
      body: { ...registerBody(server, invite, newcomer()), name },
    });
    expect([answer.status, answer.body.code]).toEqual([400, "invalid"]);
  });

  test("keeps what is no name as it is, whatever stands in it", async () => {
    const invite = await server.invite({ role: "node" });
    const version = "'\"; -- \u0000\u{1F600}";
    const body = { ...registerBody(server, invite, newcomer(), { name: "strange" }), version };
    expect((await server.call("POST", "/nodes/register", { body })).status).toBe(200);
    expect(server.server.machines().find((machine) => machine.name === "strange")?.version).toBe(version);
  });

  test("refuses a machine that is enrolled already, one that was revoked, and a copied WireGuard key", async () => {
    const who = newcomer();
    const first = await register(server, await server.invite({ role: "node", name: "once" }), who);
    expect(first.status).toBe(200);
    expect((await register(server, await server.invite({ role: "node" }), who)).body.code).toBe("already-enrolled");
    const copy = { ...newcomer(), wireGuard: who.wireGuard };
    expect((await register(server, await server.invite({ role: "node" }), copy)).body.code).toBe("key-taken");
    await server.server.revoke("once");
    expect((await register(server, await server.invite({ role: "node" }), who)).body.code).toBe("machine-revoked");
  });

  test("lets nothing of a secret into answers, the audit or the database", async () => {
    const made = await server.server.invite({ role: "node" });
    const invite = parseInvite(made.text);
    const secret = toBase64Url(invite.secret);
    const answers = [await register(server, invite, newcomer()), await register(server, invite, newcomer())];
    expect(JSON.stringify(answers)).not.toContain(secret);
    expect(JSON.stringify(await server.server.audit(1000))).not.toContain(secret);
    const files = await Promise.all(
      ["higgs.db", "higgs.db-wal"].map((name) =>
        Bun.file(`${server.stateDir}/${name}`)
          .bytes()
          .catch(() => new Uint8Array(0)),
      ),
    );
    const raw = Buffer.concat(files);
    expect(raw.length).toBeGreaterThan(10_000);
    expect(raw.includes(invite.id)).toBe(true);
    expect(raw.includes(secret)).toBe(false);
    expect(raw.includes(Buffer.from(fromBase64Url(secret) ?? []))).toBe(false);
  });

  test("limits how often an address may try", async () => {
    await using limited = await startServer({ server: { limits: DEFAULT_LIMITS } });
    const invite = await limited.invite({ role: "node" });
    const wrong = { ...invite, secret: new Uint8Array(32) };
    const answers = [];
    for (let i = 0; i < 6; i++) answers.push(await register(limited, wrong, newcomer()));
    expect(answers.map((answer) => answer.status)).toEqual([403, 403, 403, 403, 403, 429]);
    expect(Number(answers.at(-1)?.headers.get("retry-after"))).toBeGreaterThan(0);
    expect((await limited.call("POST", "/proof", { body: { nonce: "A".repeat(43) } })).status).toBe(200);
  });
});
