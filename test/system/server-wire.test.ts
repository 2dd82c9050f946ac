import { afterAll, beforeAll, expect, test } from "bun:test";
import { type Cidr, parseHostPort } from "../../src/base/ip.ts";
import { askedToWaitMs } from "../../src/peer/reconnect.ts";
import { openDoor } from "../../src/peer/server-door.ts";
import { enrolAt, NEVER, startNode } from "./machine-support.ts";
import {
  codeOf,
  enrolMachine,
  NO_LIMITS,
  proofBody,
  startServer,
  type TestMachine,
  type TestServer,
  tokenOf,
  until,
} from "./server-support.ts";

let server: TestServer;
beforeAll(async () => {
  server = await startServer();
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
});

test("HiggsServer.tag() gives a machine no more tags than an invite may carry: they had no bound", async () => {
  await enrolMachine(server, "node", "tagged");
  const tags = Array.from({ length: 17 }, (_, i) => `tag-${i}`);
  expect(await codeOf(server.server.tag("tagged", tags))).toBe("tag-invalid");
  expect(await codeOf(server.server.tag("tagged", [...tags.slice(1), "tag-1"]))).toBe("done");
  expect(server.server.machines().find((machine) => machine.name === "tagged")?.tags.length).toBe(16);
});

test("a body of another content type is refused as such, on every route that takes one: it was a failure of the server's", async () => {
  const node = await enrolMachine(server, "node", "form");
  const token = await tokenOf(server, node);
  const paths = ["/proof", "/nodes/register", "/clients/register", "/auth/challenge", "/auth/token"];
  for (const path of [...paths, `/nodes/${node.id}/heartbeat`, "/routing/request", "/metrics"]) {
    for (const type of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "x"]) {
      const answer = await server.call("POST", path, { token, body: "{}", headers: { "content-type": type } });
      expect([path, type, answer.status, answer.body.code]).toEqual([path, type, 415, "unsupported-media-type"]);
      expect(answer.headers.get("content-type")).toBe("application/problem+json");
    }
  }
});

test("the API's document names every status that a route may answer: five were missing", async () => {
  const { body } = await server.call("GET", "/openapi.json");
  const paths = body.paths as Record<string, Record<string, { responses: Record<string, unknown> }>>;
  for (const operation of Object.values(paths).flatMap((item) => Object.values(item))) {
    for (const status of ["408", "413", "415", "426", "503"]) expect(operation.responses).toHaveProperty(status);
  }
});

test("a hundred machines behind one address dial at once, and none is refused: forty used the address's limit up", async () => {
  await using limited = await startServer({ server: { limits: { enrol: NO_LIMITS.enrol } } });
  const machines: TestMachine[] = [];
  for (let i = 0; i < 100; i++) machines.push(await enrolMachine(limited, i % 2 === 0 ? "node" : "client", `m-${i}`));
  const statuses = await Promise.all(
    machines.map(async (machine) => {
      const proof = await limited.call("POST", "/proof", { body: { nonce: "A".repeat(43) } });
      const answer = await limited.call("POST", "/auth/token", { body: await proofBody(limited, machine) });
      return `${proof.status} ${answer.status}`;
    }),
  );
  expect(new Set(statuses)).toEqual(new Set(["200 200"]));
});

test("a stranger who names a machine, or none, uses up neither that machine's proofs nor those of its neighbours", async () => {
  await using limited = await startServer({
    server: { limits: { ...NO_LIMITS, auth: [{ burst: 4, perMs: 600_000 }] }, trustedProxies: ["127.0.0.0/8" as Cidr] },
  });
  const node = await enrolMachine(limited, "node", "victim");
  const ask = (machine: unknown, from: string) =>
    limited.call("POST", "/auth/challenge", { body: { machine }, headers: { "x-forwarded-for": from } });
  const statuses = async (machine: unknown, from: string) => {
    const answers = [];
    for (let i = 0; i < 5; i++) answers.push((await ask(machine, from)).status);
    return answers;
  };
  expect(await statuses(node.id, "203.0.113.9")).toEqual([200, 200, 200, 200, 429]);
  expect(await statuses(crypto.randomUUID(), "203.0.113.5")).toEqual([401, 401, 401, 401, 429]);
  expect(await statuses(1, "203.0.113.6")).toEqual([400, 400, 400, 400, 429]);
  const refused = await ask(node.id, "203.0.113.9");
  expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(100);
  expect(await statuses(node.id, "203.0.113.5")).toEqual([200, 200, 200, 200, 429]);
});

test("proofs from everywhere together leave the processor to the relay, and who is over it is told when to come back", async () => {
  await using limited = await startServer({
    server: {
      limits: { ...NO_LIMITS, signatures: [{ burst: 2, perMs: 120_000 }] },
      trustedProxies: ["127.0.0.0/8" as Cidr],
    },
  });
  const prove = (from: string) =>
    limited.call("POST", "/proof", { body: { nonce: "A".repeat(43) }, headers: { "x-forwarded-for": from } });
  expect([(await prove("203.0.113.1")).status, (await prove("203.0.113.2")).status]).toEqual([200, 200]);
  const third = await prove("203.0.113.3");
  expect([third.status, third.body.code]).toEqual([429, "rate-limited"]);
  expect(Number(third.headers.get("retry-after"))).toBeGreaterThan(50);
});

test("a machine's version is the one that it runs now, also after a restart: it stayed that of the enrolment", async () => {
  const first = await startServer({ keepState: true });
  await using node = await enrolAt(first, "node", "upgraded");
  const versionAt = (test: TestServer) =>
    test.server.machines().find((machine) => machine.name === "upgraded")?.version ?? "";
  await using running = await startNode(node.dir, "0.2.0");
  await until(() => running.membership.control.online);
  expect(versionAt(first)).toBe("0.2.0");
  await first[Symbol.asyncDispose]();
  await using second = await startServer({ stateDir: first.stateDir });
  expect(versionAt(second)).toBe("0.2.0");
});

test("a control stream without a version, or with one that is none, changes nothing", async () => {
  const node = await enrolMachine(server, "node", "versionless");
  const token = await tokenOf(server, node);
  for (const version of [undefined, "", "9".repeat(33)]) {
    const ws = new WebSocket(`${server.url.replace("https", "wss")}/api/v1/control`, {
      headers: { authorization: `Bearer ${token}`, ...(version === undefined ? {} : { "x-higgs-version": version }) },
      tls: { ca: server.certPem, checkServerIdentity: () => undefined },
    });
    await new Promise((resolve) => ws.addEventListener("message", resolve, { once: true }));
    expect(server.server.machines().find((machine) => machine.name === "versionless")?.version).toBe("0.0.0-test");
    ws.close();
  }
});

test("openDoor() hands on how long the server says to wait, and tries no other address of it", async () => {
  await using limited = await startServer({
    server: { limits: { ...NO_LIMITS, proof: [{ burst: 1, perMs: 90_000 }] } },
  });
  const [name = ""] = limited.server.names;
  const target = parseHostPort(name, 0) ?? { host: "", port: 0 };
  const open = () => openDoor(target, limited.server.network, { addresses: [], pin: null }, NEVER);
  const door = await open();
  expect(door.names).toEqual([name]);
  const refused = await open().catch((thrown: unknown) => thrown);
  expect(refused).toMatchObject({ name: "ServerRefused", code: "rate-limited", detail: { status: 429 } });
  expect(askedToWaitMs(refused)).toBeGreaterThan(60_000);
});
