import { afterAll, beforeAll, beforeEach, describe, expect, jest, test } from "bun:test";
import {
  enrolMachine,
  introduce,
  NO_LIMITS,
  startServer,
  type TestControl,
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

let count = 0;
let node: TestMachine;
let client: TestMachine;
let nodeToken: string;
let clientToken: string;
beforeEach(async () => {
  count++;
  node = await enrolMachine(server, "node", `node-${count}`);
  client = await enrolMachine(server, "client", `client-${count}`);
  [nodeToken, clientToken] = [await tokenOf(server, node), await tokenOf(server, client)];
});

/** Connected, introduced, and an exit. */
async function ready(machine: TestMachine): Promise<TestControl> {
  const control = await introduce(server, machine);
  control.send({ type: "presence", exit: { ready: true, ipv6: true, missing: [] } });
  control.send({ type: "connect", ref: 1, peer: client.id, kind: "wireguard" });
  const { session } = await control.next("connected");
  control.send({ type: "disconnect", id: session.id });
  await control.next("session-end");
  return control;
}

describe("health", () => {
  test("tells anybody how the server is, and nothing of the network", async () => {
    const { status, body } = await server.call("GET", "/health");
    expect(status).toBe(200);
    expect(body).toMatchObject({
      status: "healthy",
      services: { database: { status: "healthy" }, stun: { status: "off" } },
    });
    expect(JSON.stringify(body)).not.toContain(node.name);
    expect((await server.call("GET", "/health/ready")).body).toEqual({ status: "ready" });
    expect((await server.call("GET", "/health/live")).body.status).toBe("alive");
    expect((await server.call("HEAD", "/health")).status).toBe(200);
  });
});

describe("GET /openapi.json", () => {
  test("describes every route with what it takes, gives and refuses", async () => {
    const { body } = await server.call("GET", "/openapi.json");
    expect(body.openapi).toBe("3.1.0");
    for (const [path, item] of Object.entries(body.paths as Record<string, Record<string, Record<string, unknown>>>)) {
      for (const [method, operation] of Object.entries(item)) {
        expect([path, method, typeof operation.summary]).toEqual([path, method, "string"]);
        const responses = operation.responses as Record<string, { content?: Record<string, unknown> }>;
        expect(Object.keys(responses["401"]?.content ?? {})).toEqual(["application/problem+json"]);
        expect([path, Object.keys(responses).some((status) => status.startsWith("2"))]).toEqual([path, true]);
        if (method === "post") expect([path, operation.requestBody !== undefined]).toEqual([path, true]);
      }
    }
  });
});

describe("machines", () => {
  test("are listed for whom they concern, with what the server knows of them", async () => {
    const control = await ready(node);
    const { body } = await server.call("GET", "/nodes", { token: clientToken });
    const listed = (body.nodes as Record<string, unknown>[]).find((one) => one.id === node.id);
    expect(listed).toMatchObject({
      name: node.name,
      online: true,
      status: "online",
      ipv4: node.ipv4,
      exit: { ready: true },
    });
    const own = await server.call("GET", "/nodes", { token: nodeToken });
    expect((own.body.nodes as { id: string }[]).map((one) => one.id)).toEqual([node.id]);
    expect(own.body.count).toBe(1);
    control.ws.close();
    await until(() => server.server.machines().find((machine) => machine.id === node.id)?.online === false);
    const gone = await server.call("GET", `/nodes/${node.id}`, { token: clientToken });
    expect(gone.body).toMatchObject({ online: false, status: "offline" });
    expect(typeof gone.body.lastSeenAt).toBe("number");
  });

  test("say how they are, are asked to say so sooner when they are in trouble, and are shown as degraded", async () => {
    const control = await ready(node);
    const beat = (body: unknown) => server.call("POST", `/nodes/${node.id}/heartbeat`, { token: nodeToken, body });
    expect((await beat({ metrics: { cpuUsage: 20 } })).body).toEqual({ status: "ok", nextHeartbeat: 30, actions: [] });
    expect((await beat({ metrics: { cpuUsage: 91 } })).body.nextHeartbeat).toBe(10);
    expect((await server.call("GET", `/nodes/${node.id}`, { token: clientToken })).body.status).toBe("degraded");
    for (const body of [{ metrics: { cpuUsage: 101 } }, { metrics: { latency: -1 } }, { status: "great" }, [], "x"]) {
      expect((await beat(body)).status).toBe(400);
    }
    control.ws.close();
  });
});

describe("routing", () => {
  test("chooses among nodes that are there with a working exit, by load and requirement, and grants a session", async () => {
    const other = await enrolMachine(server, "node", `other-${count}`);
    const offline = await enrolMachine(server, "node", `offline-${count}`);
    const control = await ready(node);
    const otherControl = await ready(other);
    await introduce(server, offline).then(({ ws }) => ws.close());
    const beat = (machine: TestMachine, token: string, metrics: unknown) =>
      server.call("POST", `/nodes/${machine.id}/heartbeat`, { token, body: { metrics } });
    await beat(node, nodeToken, { cpuUsage: 10, latency: 200 });
    await beat(other, await tokenOf(server, other), { cpuUsage: 60, latency: 20 });
    const ask = (body: unknown) => server.call("POST", "/routing/request", { token: clientToken, body });
    const paths = async (body: unknown): Promise<string[]> =>
      ((await ask(body)).body.routes as { path: string[] }[]).flatMap((route) => route.path);
    expect(await paths({})).toEqual([node.id, other.id]);
    expect(await paths({ requirements: { maxLatency: 100 } })).toEqual([other.id]);
    expect(await paths({ targetNodeId: other.id })).toEqual([other.id]);
    expect(await paths({ targetNodeId: offline.id })).toEqual([]);
    expect((await ask({ targetNodeId: client.id })).status).toBe(404);
    // Who asks is known by the token; what a body says of it counts for nothing.
    const { body } = await ask({ clientId: node.id, targetNodeId: node.id });
    const selected = body.selectedRoute as {
      id: string;
      nodeId: string;
      relayEndpoint: string;
      session: { id: number; peer: string };
    };
    expect(selected).toMatchObject({
      nodeId: node.id,
      relayEndpoint: "/api/v1/relay",
      session: { peer: node.id, initiator: true },
    });
    expect((await control.next("session", control.messages.length - 1)).session).toMatchObject({
      id: selected.session.id,
      peer: client.id,
    });
    const route = (token: string) => server.call("GET", `/routing/route/${selected.id}`, { token });
    expect((await route(clientToken)).body).toMatchObject({ id: selected.id, type: "relay", path: [node.id] });
    expect((await route(nodeToken)).status).toBe(404);
    control.send({ type: "disconnect", id: selected.session.id });
    await until(() => server.server.sessions().every((session) => session.id !== selected.session.id));
    expect((await route(clientToken)).status).toBe(404);
    for (const { ws } of [control, otherControl]) ws.close();
  });
});

describe("metrics", () => {
  test("are the caller's own whatever a body says, by the server's clock, and kept by the minute", async () => {
    const start = Math.floor(Date.now() / 3_600_000) * 3_600_000 + 3_600_000;
    const own = await startServer({ keepState: true });
    const [a, b] = [await enrolMachine(own, "node", "a"), await enrolMachine(own, "client", "b")];
    try {
      const report = async (atMs: number, latency: number, sent: number): Promise<void> => {
        jest.setSystemTime(start + atMs);
        const metrics = {
          network: { latency },
          wireguard: { bytes: { sent, received: 0 } },
          connections: { active: 1 },
        };
        const body = { nodeId: b.id, timestamp: 5, metrics };
        expect((await own.call("POST", "/metrics", { token: await tokenOf(own, a), body })).status).toBe(201);
      };
      await report(0, 10, 1000);
      await report(30_000, 20, 1500);
      await report(60_000, 60, 2500);
      await report(3_600_000, 100, 100);
      const latest = await own.call("GET", `/metrics/${a.id}/latest`, { token: await tokenOf(own, b) });
      expect(latest.body).toMatchObject({
        nodeId: a.id,
        timestamp: start + 3_600_000,
        metrics: { network: { latency: 100 } },
      });
      expect((await own.call("GET", `/metrics/${b.id}/latest`, { token: await tokenOf(own, b) })).status).toBe(404);
    } finally {
      await own[Symbol.asyncDispose]();
    }
    await using again = await startServer({ stateDir: own.stateDir });
    try {
      jest.setSystemTime(start + 7_200_000);
      const token = await tokenOf(again, b);
      const history = async (query: string): Promise<unknown[]> => {
        const { body } = await again.call("GET", `/metrics/${a.id}/history?${query}`, { token });
        return (body.metrics as { timestamp: number; samples: number; latency: number; bytesSent: number }[]).map(
          (point) => [(point.timestamp - start) / 60_000, point.samples, point.latency, point.bytesSent],
        );
      };
      expect(await history("interval=minute")).toEqual([
        [0, 2, 15, 500],
        [1, 1, 60, 1000],
        [60, 1, 100, 100],
      ]);
      expect(await history("interval=hour")).toEqual([
        [0, 3, 30, 1500],
        [60, 1, 100, 100],
      ]);
      expect((await history("interval=day")).length).toBeGreaterThan(0);
      expect(await history(`interval=minute&startTime=${start}&endTime=${start + 60_000}`)).toEqual([[0, 2, 15, 500]]);
      const { body } = await again.call("GET", `/metrics/${a.id}/aggregated`, { token });
      expect(body).toEqual({
        avgLatency: 47.5,
        avgJitter: null,
        avgPacketLoss: null,
        avgCpuUsage: null,
        avgMemoryUsage: null,
        totalBytesSent: 1600,
        totalBytesReceived: 0,
      });
      for (const query of ["interval=second", "startTime=x", "startTime=2&endTime=1", "interval=minute&startTime=0"]) {
        expect([query, (await again.call("GET", `/metrics/${a.id}/history?${query}`, { token })).status]).toEqual([
          query,
          400,
        ]);
      }
    } finally {
      jest.setSystemTime();
    }
  });
});

describe("limits", () => {
  test("count requests with a token by machine, not by address", async () => {
    const api = [{ burst: 3, perMs: 600_000 }];
    await using limited = await startServer({ server: { limits: { ...NO_LIMITS, api } } });
    const [a, b] = [await enrolMachine(limited, "node", "a"), await enrolMachine(limited, "node", "b")];
    const [tokenA, tokenB] = [await tokenOf(limited, a), await tokenOf(limited, b)];
    const statuses: number[] = [];
    for (let i = 0; i < 4; i++) statuses.push((await limited.call("GET", "/nodes", { token: tokenA })).status);
    expect(statuses).toEqual([200, 200, 200, 429]);
    expect((await limited.call("GET", "/nodes", { token: tokenB })).status).toBe(200);
  });

  test("count callers behind a trusted proxy by what it says, and believe nobody else", async () => {
    const open = [{ burst: 2, perMs: 600_000 }];
    const ask = async (at: TestServer, from: string) =>
      (await at.call("GET", "/health/live", { headers: { "x-forwarded-for": from } })).status;
    await using proxied = await startServer({
      server: { limits: { ...NO_LIMITS, open }, trustedProxies: ["127.0.0.0/8" as never] },
    });
    expect([
      await ask(proxied, "203.0.113.1"),
      await ask(proxied, "203.0.113.1"),
      await ask(proxied, "203.0.113.1"),
    ]).toEqual([200, 200, 429]);
    expect(await ask(proxied, "203.0.113.2")).toBe(200);
    await using direct = await startServer({ server: { limits: { ...NO_LIMITS, open } } });
    expect([
      await ask(direct, "203.0.113.1"),
      await ask(direct, "203.0.113.2"),
      await ask(direct, "203.0.113.3"),
    ]).toEqual([200, 200, 429]);
  });
});

test("prometheus() has a line for each figure, and as many as there are routes and machines", async () => {
  const text = server.server.prometheus();
  const lines = text.trimEnd().split("\n");
  for (const line of lines) {
    expect(line).toMatch(
      /^(# (HELP|TYPE) higgs_server_[a-z_]+ .+|higgs_server_[a-z_]+(\{([a-z]+="[^"]*",?)+\})? [0-9.e+-]+)$/,
    );
  }
  expect(text).toContain('higgs_server_api_requests_total{route="POST /api/v1/nodes/{id}/heartbeat",status="200"}');
  expect(text).not.toContain(node.id);
});
