import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { connect } from "node:net";
import { connect as tlsConnect } from "node:tls";
import fc from "fast-check";
import { bindingRequest, decodeStun, encodeStun } from "../../src/proto/stun.ts";
import {
  enrolMachine,
  frameOf,
  NO_LIMITS,
  openControl,
  openRelay,
  startServer,
  type TestServer,
  tokenOf,
  until,
} from "./server-support.ts";

let server: TestServer;
const failures: unknown[] = [];
const onFailure = (thrown: unknown): void => {
  failures.push(thrown);
};
beforeAll(async () => {
  process.on("uncaughtException", onFailure);
  process.on("unhandledRejection", onFailure);
  server = await startServer({ server: { stunPort: 0 } });
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  process.off("uncaughtException", onFailure);
  process.off("unhandledRejection", onFailure);
  expect(failures).toEqual([]);
});

/** Sends bytes, plainly or inside TLS, and resolves with everything that came back once the server has closed. */
function talk(bytes: Uint8Array | string, options: { readonly tls: boolean }): Promise<string> {
  return new Promise((resolve) => {
    let text = "";
    const port = server.server.port;
    const socket = options.tls
      ? tlsConnect({ host: "127.0.0.1", port, rejectUnauthorized: false }, () => socket.write(bytes))
      : connect(port, "127.0.0.1", () => socket.write(bytes));
    socket.on("data", (data: Buffer) => {
      text += data.toString("latin1");
    });
    socket.on("error", () => undefined); // a reset is an answer too
    socket.on("close", () => resolve(text));
  });
}

async function isWell(): Promise<void> {
  expect((await server.call("GET", "/health")).status).toBe(200);
}

describe("the TCP port", () => {
  test("survives bytes that are no TLS", async () => {
    for (const bytes of [
      "GET / HTTP/1.0\r\n\r\n",
      "\x16\x03\x01\xff\xff",
      crypto.getRandomValues(new Uint8Array(2000)),
    ]) {
      expect(await talk(bytes, { tls: false })).not.toContain("200 OK");
    }
    await isWell();
  });

  test("survives bytes that are no HTTP, or too much of it", async () => {
    const close = "Connection: close\r\n\r\n";
    const requests: [RegExp, string | Uint8Array][] = [
      [/ (400|505) /, crypto.getRandomValues(new Uint8Array(5000))],
      [/ 400 /, "GET\r\n\r\n"],
      [/ 400 /, `GET /api/v1/health HTTP/1.1\r\nHost: \\\\%%[\r\n${close}`],
      [/ 431 /, `GET /api/v1/health HTTP/1.1\r\nHost: x\r\nX-Long: ${"a".repeat(300_000)}\r\n${close}`],
      [
        / 413 /,
        `POST /api/v1/proof HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 70000\r\n${close}`,
      ],
      [
        / 413 /,
        `POST /api/v1/proof HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n${close}${`4000\r\n${"a".repeat(0x4000)}\r\n`.repeat(5)}`,
      ],
      [/ 401 /, `GET /api/v1/relay HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n${close}`],
      [/ 404 /, `GET /api/v1/../../etc/passwd HTTP/1.1\r\nHost: x\r\n${close}`],
      [/ 404 /, `GET /%2e%2e/%00 HTTP/1.1\r\nHost: x\r\n${close}`],
    ];
    for (const [status, request] of requests) {
      const answer = await talk(request, { tls: true });
      expect(answer.split("\r\n", 1)[0]).toMatch(status);
      expect(answer).not.toContain("node_modules");
    }
    expect(requests.length).toBe(9);
    await isWell();
  });

  test("refuses bodies that are no JSON, or not of the form, as problems", async () => {
    const bodies = [
      "",
      "{",
      "null",
      "[]",
      "1",
      '"x"',
      '{"nonce":1}',
      '{"nonce":""}',
      `{"nonce":"${"A".repeat(1000)}"}`,
      "\u0000",
      "{}{}",
    ];
    for (const path of ["/proof", "/nodes/register", "/clients/register", "/auth/challenge", "/auth/token"]) {
      for (const body of bodies) {
        const answer = await server.call("POST", path, { body });
        expect([path, body, answer.status, answer.body.code]).toEqual([path, body, 400, "invalid"]);
        expect(answer.headers.get("content-type")).toBe("application/problem+json");
      }
    }
  });

  test("upgrades nothing without a token, with a wrong one, or for another method", async () => {
    const node = await enrolMachine(server, "node", "upgrader");
    const token = await tokenOf(server, node);
    for (const path of ["/control", "/relay"]) {
      expect((await server.call("GET", path)).status).toBe(401);
      expect((await server.call("GET", path, { token: "A".repeat(43) })).status).toBe(401);
      expect((await server.call("GET", `${path}?token=${token}`)).status).toBe(401);
      expect((await server.call("GET", path, { token })).status).toBe(426);
      expect((await server.call("POST", path, { token, body: {} })).status).toBe(426);
    }
    await using limited = await startServer({
      server: { limits: { ...NO_LIMITS, upgrade: [{ burst: 2, perMs: 600_000 }] } },
    });
    const statuses = [];
    for (let i = 0; i < 3; i++) statuses.push((await limited.call("GET", "/relay")).status);
    expect(statuses).toEqual([401, 401, 429]);
  });
});

describe("the sockets", () => {
  test("survive anything in a WebSocket message", async () => {
    const node = await enrolMachine(server, "node", "noisy");
    const sound = frameOf(1, [100, 200]);
    const relay = await openRelay(server, node);
    const runs = 300;
    let ran = 0;
    for (const bytes of fc.sample(
      fc.oneof(
        fc.uint8Array({ maxLength: 500 }),
        fc.nat(sound.length - 1).map((at) => sound.with(at, 255)),
      ),
      { numRuns: runs, seed: 7 },
    )) {
      relay.ws.send(new Uint8Array(bytes));
      ran++;
    }
    for (const text of fc.sample(fc.oneof(fc.string(), fc.json()), { numRuns: 30, seed: 7 })) {
      const control = await openControl(server, node);
      control.ws.send(text);
      await until(() => control.closed());
      ran++;
    }
    expect(ran).toBe(runs + 30);
    expect(relay.closed()).toBeNull();
    relay.ws.close();
    await isWell();
  });

  test("survive a connection that is cut in the middle of a frame", async () => {
    const node = await enrolMachine(server, "node", "cutter");
    for (const path of ["control", "relay"]) {
      const token = await tokenOf(server, node);
      const socket = tlsConnect({ host: "127.0.0.1", port: server.server.port, rejectUnauthorized: false });
      socket.on("error", () => undefined); // it is reset
      socket.write(
        `GET /api/v1/${path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nAuthorization: Bearer ${token}\r\n\r\n`,
      );
      await new Promise<void>((resolve) => socket.once("data", () => resolve()));
      socket.write(Uint8Array.of(0x82, 0xfe, 0x10, 0x00, 1, 2, 3, 4, 5));
      socket.destroy();
    }
    await until(() => server.server.machines().every((machine) => machine.name !== "cutter" || !machine.online));
    await isWell();
  });
});

describe("the STUN port", () => {
  const families = [
    ["127.0.0.1", "127.0.0.1"],
    ["::1", "::1"],
  ] as const;

  async function ask(
    at: TestServer,
    host: string,
    datagrams: readonly Uint8Array[],
  ): Promise<{ readonly port: number; readonly answers: Uint8Array[] }> {
    const answers: Uint8Array[] = [];
    const socket = await Bun.udpSocket({
      hostname: host,
      port: 0,
      socket: { data: (_socket, data) => void answers.push(new Uint8Array(data)), error: () => undefined },
    });
    for (const datagram of datagrams) socket.send(datagram, at.server.stunPort ?? 0, host);
    // A request of its own at the end: what came before was dealt with when its answer is there.
    const last = encodeStun(bindingRequest(new Uint8Array(12).fill(9)));
    await until(() => {
      if (answers.some((answer) => answer[19] === 9)) return true;
      socket.send(last, at.server.stunPort ?? 0, host);
      return false;
    });
    const { port } = socket;
    socket.close();
    return { port, answers: answers.filter((answer) => answer[19] !== 9) };
  }

  test("answers over both families with where the request came from", async () => {
    await using both = await startServer({ server: { stunPort: 0, listen: { host: "::", port: 0 } } });
    let asked = 0;
    for (const [host, expected] of families) {
      const { port, answers } = await ask(both, host, [encodeStun(bindingRequest(new Uint8Array(12).fill(1)))]);
      const answer = decodeStun(answers[0] ?? new Uint8Array(0));
      expect(answer?.attributes).toEqual([
        { type: "xor-mapped-address", endpoint: { address: expected as never, port } },
      ]);
      asked++;
    }
    expect(asked).toBe(2);
    expect((await both.call("GET", "/health")).body).toMatchObject({ services: { stun: { status: "healthy" } } });
  });

  test("says nothing to a thousand datagrams that are no request", async () => {
    const noise = fc.sample(fc.uint8Array({ maxLength: 200 }), { numRuns: 1000, seed: 7 });
    expect(noise.length).toBe(1000);
    expect((await ask(server, "127.0.0.1", noise)).answers).toEqual([]);
    await isWell();
  });

  test("answers an address only so often", async () => {
    await using limited = await startServer({
      server: { stunPort: 0, limits: { ...NO_LIMITS, stun: [{ burst: 5, perMs: 1e9 }] } },
    });
    const socket = await Bun.udpSocket({ hostname: "127.0.0.1", port: 0, socket: { error: () => undefined } });
    for (let i = 0; i < 20; i++)
      socket.send(encodeStun(bindingRequest(new Uint8Array(12))), limited.server.stunPort ?? 0, "127.0.0.1");
    const figure = (result: string): number =>
      Number(new RegExp(`stun_datagrams_total\\{result="${result}"\\} (\\d+)`).exec(limited.server.prometheus())?.[1]);
    await until(() => figure("answered") + figure("limited") === 20);
    expect(figure("answered")).toBe(5);
    socket.close();
  });
});
