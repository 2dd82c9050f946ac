import { afterAll, beforeAll, describe, expect, jest, test } from "bun:test";
import type { MachineId, SpkiHash } from "../../src/proto/keys.ts";
import { CLOSE } from "../../src/proto/control.ts";
import { RULES } from "../../src/server/api/rules.ts";
import { TOKEN_MS } from "../../src/server/auth.ts";
import {
  codeOf,
  enrolMachine,
  introduce,
  NO_LIMITS,
  newcomer,
  openControl,
  openRelay,
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

function token(body: Record<string, unknown>, at: TestServer = server) {
  return at.call("POST", "/auth/token", { body });
}

describe("POST /auth/token", () => {
  test("takes an answer once", async () => {
    const node = await enrolMachine(server, "node", "once");
    const body = await proofBody(server, node);
    expect((await token(body)).status).toBe(200);
    expect((await token(body)).body.code).toBe("proof-refused");
  });

  test("refuses an answer of another machine, for another certificate, another network, and with another key", async () => {
    const node = await enrolMachine(server, "node", "victim");
    const thief = await enrolMachine(server, "node", "thief");
    const bodies = [
      { ...(await proofBody(server, node)), machine: thief.id },
      await proofBody(server, thief, { machine: node.id }),
      await proofBody(server, node, { identity: thief.identity }),
      await proofBody(server, node, { identity: newcomer().identity }),
      await proofBody(server, node, { spki: "A".repeat(43) as SpkiHash }),
      await proofBody(server, node, { network: thief.id as never }),
    ];
    for (const body of bodies) expect((await token(body)).body.code).toBe("proof-refused");
    expect((await token(await proofBody(server, node))).status).toBe(200);
  });

  test("knows no machine that is not enrolled, or not any more", async () => {
    const node = await enrolMachine(server, "node", "gone");
    const body = await proofBody(server, node);
    await server.server.revoke("gone");
    expect((await token(body)).body.code).toBe("machine-unknown");
    const stranger = await server.call("POST", "/auth/challenge", { body: { machine: crypto.randomUUID() } });
    expect([stranger.status, stranger.body.code]).toEqual([401, "machine-unknown"]);
  });

  test("blocks who answers wrongly for a machine ten times, and neither its address nor the machines beside it", async () => {
    const limits = { failures: [{ burst: 10, perMs: 600_000 }] };
    await using limited = await startServer({
      server: { limits: { ...NO_LIMITS, ...limits } },
    });
    const node = await enrolMachine(limited, "node", "n");
    const statuses: number[] = [];
    for (let i = 0; i < 11; i++) {
      statuses.push((await token(await proofBody(limited, node, { identity: newcomer().identity }), limited)).status);
    }
    expect(statuses).toEqual([...Array<number>(10).fill(401), 429]);
    expect((await limited.call("GET", "/health")).status).toBe(200);
    expect(await codeOf(tokenOf(limited, await enrolMachine(limited, "node", "beside")))).toBe("done");
  });
});

describe("a token", () => {
  test("opens the API and both sockets until it expires", async () => {
    const node = await enrolMachine(server, "node", "expiring");
    const held = await tokenOf(server, node);
    expect((await server.call("GET", "/nodes", { token: held })).status).toBe(200);
    jest.setSystemTime(Date.now() + TOKEN_MS + 1);
    try {
      expect((await server.call("GET", "/nodes", { token: held })).status).toBe(401);
      expect(await codeOf(openControl(server, node, held))).not.toBe("done");
      expect(await codeOf(openRelay(server, node, held))).not.toBe("done");
    } finally {
      jest.setSystemTime();
    }
  });

  test("is worthless after a restart of the server, and the machine gets a new one by itself", async () => {
    const first = await startServer({ keepState: true });
    const node = await enrolMachine(first, "node", "survivor");
    const held = await tokenOf(first, node);
    const answer = await proofBody(first, node);
    await first[Symbol.asyncDispose]();
    await using second = await startServer({ stateDir: first.stateDir });
    expect((await second.call("GET", "/nodes", { token: held })).status).toBe(401);
    expect((await token(answer, second)).body.code).toBe("proof-refused");
    expect((await second.call("GET", "/nodes", { token: await tokenOf(second, node) })).status).toBe(200);
  });

  test("is worthless the moment its machine is revoked, and so are its connections", async () => {
    const node = await enrolMachine(server, "node", "revoked");
    const client = await enrolMachine(server, "client", "watcher");
    const control = await introduce(server, node);
    const relay = await openRelay(server, node);
    const watcher = await introduce(server, client);
    watcher.send({ type: "connect", ref: 1, peer: node.id, kind: "wireguard" });
    const { session } = await watcher.next("connected");
    const held = await tokenOf(server, node);
    await server.server.revoke("revoked");
    expect((await server.call("GET", "/nodes", { token: held })).status).toBe(401);
    expect((await until(() => control.closed())).code).toBe(CLOSE.revoked);
    expect((await until(() => relay.closed())).code).toBe(CLOSE.revoked);
    expect((await watcher.next("session-end")).id).toBe(session.id);
    await until(() => watcher.messages.some((message) => message.type === "delta" && message.remove.includes(node.id)));
    expect(server.server.sessions().some((entry) => entry.id === session.id)).toBe(false);
    expect(await codeOf(openControl(server, node, held))).not.toBe("done");
    watcher.ws.close();
  });

  test("of one machine leaves nothing but that machine's own network", async () => {
    const node = await enrolMachine(server, "node", "leaver");
    const held = await tokenOf(server, node);
    expect((await server.call("DELETE", `/nodes/${node.id}`, { token: held })).status).toBe(204);
    expect((await server.call("GET", "/nodes", { token: held })).status).toBe(401);
    expect(server.server.machines().some((machine) => machine.name === "leaver")).toBe(false);
    expect((await server.server.audit(1))[0]).toMatchObject({ event: "machine-left", machine: node.id });
  });
});

describe("requests from browsers", () => {
  test("are refused on every route and both sockets, whatever credential they carry", async () => {
    const node = await enrolMachine(server, "node", "browsed");
    const held = await tokenOf(server, node);
    for (const route of [...Object.keys(RULES), "GET /api/v1/control", "GET /api/v1/relay"]) {
      const [method = "", path = ""] = route.split(" ");
      const answer = await server.call(method, path.replace("/api/v1", "").replace(/\{\w+\}/, node.id), {
        token: held,
        headers: { origin: "https://example.com" },
      });
      expect([route, answer.status, answer.body.code]).toEqual([route, 403, "from-a-browser"]);
      expect(answer.headers.get("access-control-allow-origin")).toBeNull();
    }
  });
});

/** What each caller gets for each kind of object; a body that is refused as such has passed the guard. */
type Cell = "passes" | 401 | 403 | 404;
interface Row {
  /** Without a token; with one, for the caller itself, for one it may connect to, for one it may not see, for nobody. */
  readonly none: Cell;
  readonly own: Cell;
  readonly peer: Cell;
  readonly hidden: Cell;
  readonly nobody: Cell;
}

const ANYONE: Row = { none: "passes", own: "passes", peer: "passes", hidden: "passes", nobody: "passes" };
const MACHINE: Row = { none: 401, own: "passes", peer: "passes", hidden: "passes", nobody: "passes" };
/** Reading a machine: itself and whom it may connect to, where the role in the path is theirs. */
const READ = (own: Cell, peer: Cell): Row => ({ none: 401, own, peer, hidden: 404, nobody: 404 });

/** By route, for a node that calls and for a client that calls. A route that is missing here fails the test. */
const MATRIX: Readonly<Record<string, { readonly node: Row; readonly client: Row }>> = {
  "GET /api/v1/health": { node: ANYONE, client: ANYONE },
  "GET /api/v1/health/live": { node: ANYONE, client: ANYONE },
  "GET /api/v1/health/ready": { node: ANYONE, client: ANYONE },
  "GET /api/v1/openapi.json": { node: ANYONE, client: ANYONE },
  "POST /api/v1/proof": { node: ANYONE, client: ANYONE },
  "POST /api/v1/auth/challenge": { node: ANYONE, client: ANYONE },
  "POST /api/v1/auth/token": { node: ANYONE, client: ANYONE },
  "POST /api/v1/nodes/register": { node: ANYONE, client: ANYONE },
  "POST /api/v1/clients/register": { node: ANYONE, client: ANYONE },
  "GET /api/v1/nodes": { node: MACHINE, client: MACHINE },
  "GET /api/v1/nodes/{id}": { node: READ("passes", 404), client: READ(404, "passes") },
  "POST /api/v1/nodes/{id}/heartbeat": { node: READ("passes", 404), client: READ(404, 403) },
  "DELETE /api/v1/nodes/{id}": { node: READ("passes", 404), client: READ(404, 403) },
  "GET /api/v1/clients": { node: MACHINE, client: MACHINE },
  "GET /api/v1/clients/{id}": { node: READ(404, "passes"), client: READ("passes", 404) },
  "DELETE /api/v1/clients/{id}": { node: READ(404, 403), client: READ("passes", 404) },
  "POST /api/v1/routing/request": { node: MACHINE, client: MACHINE },
  "GET /api/v1/routing/route/{routeId}": { node: MACHINE, client: MACHINE },
  "POST /api/v1/metrics": { node: MACHINE, client: MACHINE },
  "GET /api/v1/metrics/{id}/latest": { node: READ("passes", "passes"), client: READ("passes", "passes") },
  "GET /api/v1/metrics/{id}/history": { node: READ("passes", "passes"), client: READ("passes", "passes") },
  "GET /api/v1/metrics/{id}/aggregated": { node: READ("passes", "passes"), client: READ("passes", "passes") },
};

describe("the matrix of who may do what", () => {
  async function documented(): Promise<string[]> {
    const { body } = await server.call("GET", "/openapi.json");
    return Object.entries(body.paths as Record<string, Record<string, unknown>>).flatMap(([path, item]) =>
      Object.keys(item).map((method) => `${method.toUpperCase()} ${path}`),
    );
  }

  test("has a row for each route that is served, and each route has a rule", async () => {
    const routes = (await documented()).sort();
    expect(routes.length).toBe(22);
    expect(Object.keys(MATRIX).sort()).toEqual(routes);
    expect(Object.keys(RULES).sort()).toEqual(routes);
  });

  test("says in the document which routes need a token", async () => {
    const { body } = await server.call("GET", "/openapi.json");
    for (const [path, item] of Object.entries(body.paths as Record<string, Record<string, { security?: unknown }>>)) {
      for (const [method, operation] of Object.entries(item)) {
        const open = MATRIX[`${method.toUpperCase()} ${path}`]?.node.none === "passes";
        expect([path, operation.security === undefined]).toEqual([path, open]);
      }
    }
  });

  let count = 0;
  for (const role of ["node", "client"] as const) {
    test(`holds for a ${role} that calls`, async () => {
      let cells = 0;
      for (const [route, rows] of Object.entries(MATRIX)) {
        for (const [cell, expected] of Object.entries(rows[role])) {
          count++;
          // New machines for each cell: one that passes may have left.
          const caller = await enrolMachine(server, role, `caller-${count}`);
          const peer = await enrolMachine(server, role === "node" ? "client" : "node", `peer-${count}`);
          const hidden = await enrolMachine(server, role, `hidden-${count}`);
          const objects: Record<string, MachineId> = {
            none: caller.id,
            own: caller.id,
            peer: peer.id,
            hidden: hidden.id,
            nobody: crypto.randomUUID() as MachineId,
          };
          const [method = "", path = ""] = route.split(" ");
          const answer = await server.call(method, path.replace("/api/v1", "").replace("{id}", objects[cell] ?? ""), {
            ...(cell === "none" ? {} : { token: await tokenOf(server, caller) }),
            ...(method === "POST" ? { body: {} } : {}),
          });
          const guarded = answer.status === 401 || answer.status === 403 || answer.status === 404;
          // No report was made yet, and the route's id is no UUID: these answer so themselves, after the guard.
          const own = answer.status === 404 && expected === "passes" && route.endsWith("/latest");
          const got = guarded && !own ? answer.status : "passes";
          expect(`${route} ${cell} ${got}`).toBe(`${route} ${cell} ${expected}`);
          cells++;
        }
      }
      expect(cells).toBe(22 * 5);
    }, 60_000);
  }

  test("finds no route beyond it", async () => {
    const node: TestMachine = await enrolMachine(server, "node", "prober");
    const held = await tokenOf(server, node);
    for (const [method, path] of [
      ["PUT", `/nodes/${node.id}`],
      ["PATCH", `/nodes/${node.id}`],
      ["DELETE", "/nodes"],
      ["POST", "/nodes"],
      ["GET", "/metrics"],
      ["GET", "/metrics/prometheus"],
      ["POST", "/packets"],
      ["GET", "/turn/servers"],
      ["GET", "/../health"],
      ["OPTIONS", "/health"],
      ["TRACE", "/health"],
    ] as const) {
      const answer = await server.call(method, path, { token: held });
      expect([method, path, answer.status]).toEqual([method, path, 404]);
    }
  });
});
