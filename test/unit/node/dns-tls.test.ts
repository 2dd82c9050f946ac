import { afterEach, expect, test } from "bun:test";
import { createServer, type TLSSocket } from "node:tls";
import type { AddressInfo } from "node:net";
import { streamEncode } from "dns-packet";
import { makeLabCertificates } from "../../../src/lab/ca.ts";
import { parseUpstream } from "../../../src/node/dns-upstream.ts";
import { openUpstream } from "../../../src/node/open-upstream.ts";
import { failureOf } from "../support/failure.ts";
import { answerTo, query, read } from "./dns.ts";

const NEVER = new AbortController().signal;
const stack: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of stack.splice(0).reverse()) await end();
});

const certificates = makeLabCertificates("dns.example", ["127.0.0.1"]);

interface Server {
  readonly port: number;
  readonly caPem: string;
  /** Connections that finished their handshake. */
  readonly sockets: TLSSocket[];
  readonly ids: number[];
}

/** A DNS server over TLS on loopback; `onQuery` says what to do with each. */
async function serve(onQuery: (socket: TLSSocket, asked: Uint8Array) => void): Promise<Server> {
  const { caPem, certificatePem, keyPem } = await certificates;
  const sockets: TLSSocket[] = [];
  const ids: number[] = [];
  const server = createServer({ cert: certificatePem, key: keyPem }, (socket) => {
    sockets.push(socket);
    let waiting = Buffer.alloc(0);
    socket.on("error", () => undefined); // the client may be gone
    socket.on("data", (chunk: Buffer) => {
      waiting = Buffer.concat([waiting, chunk]);
      while (waiting.length >= 2 && waiting.length >= 2 + waiting.readUInt16BE(0)) {
        const asked = new Uint8Array(waiting.subarray(2, 2 + waiting.readUInt16BE(0)));
        waiting = waiting.subarray(2 + asked.length);
        ids.push(((asked[0] ?? 0) << 8) | (asked[1] ?? 0));
        onQuery(socket, asked);
      }
    });
  });
  await new Promise<void>((resolve) => void server.listen(0, "127.0.0.1", resolve));
  stack.push(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { port: (server.address() as AddressInfo).port, caPem, sockets, ids };
}

function framed(message: Uint8Array): Uint8Array {
  return Uint8Array.of(message.length >> 8, message.length & 0xff, ...message);
}

const reply = (socket: TLSSocket, asked: Uint8Array): void => void socket.write(framed(answerTo(asked)));

test("openUpstream() asks over TLS by address, with an id of its own, and gives the answer the question's id", async () => {
  const server = await serve(reply);
  const upstream = openUpstream(parseUpstream(`tls://127.0.0.1:${server.port}`), { caPem: server.caPem });
  const answer = await upstream.ask(query("web.example", { id: 0xabcd }), NEVER);
  expect(read(answer)).toMatchObject({ id: 0xabcd, answers: [{ name: "web.example", data: "192.0.2.0" }] });
});

test("openUpstream() asks many questions on one TLS connection at once, and takes the answers in any order", async () => {
  const waiting: Uint8Array[] = [];
  const server = await serve((socket, asked) => {
    waiting.push(asked);
    if (waiting.length < 20) return;
    const all = waiting.toReversed().map((one) => framed(answerTo(one)));
    const bytes = Buffer.concat(all);
    // Cut where no message ends.
    socket.write(bytes.subarray(0, 77));
    setImmediate(() => socket.write(bytes.subarray(77)));
  });
  const upstream = openUpstream(parseUpstream(`tls://127.0.0.1:${server.port}`), { caPem: server.caPem });
  const names = Array.from({ length: 20 }, (_, i) => `q${i}.example`);
  const answers = await Promise.all(names.map((name, id) => upstream.ask(query(name, { id }), NEVER)));
  expect(answers.map((answer) => [read(answer).id, read(answer).answers?.[0]?.name])).toEqual(
    names.map((name, id) => [id, name]),
  );
  expect(server.sockets).toHaveLength(1);
  expect(new Set(server.ids).size).toBe(20);
});

test("openUpstream() connects anew after the server closed the connection between two questions", async () => {
  const server = await serve(reply);
  const upstream = openUpstream(parseUpstream(`tls://127.0.0.1:${server.port}`), { caPem: server.caPem });
  await upstream.ask(query("one.example"), NEVER);
  server.sockets[0]?.destroy();
  expect(read(await upstream.ask(query("two.example"), NEVER)).answers?.[0]?.name).toBe("two.example");
  expect(server.sockets).toHaveLength(2);
});

test("openUpstream() believes no TLS server but one of the given root and of the given name", async () => {
  const server = await serve(reply);
  const where = `tls://127.0.0.1:${server.port}`;
  const ask = (spec: string, caPem: string | null) =>
    openUpstream(parseUpstream(spec), { caPem }).ask(query("web.example"), NEVER);
  expect(await failureOf(ask(where, null))).toMatchObject({ code: "dns-upstream" });
  expect(await failureOf(ask(`${where}#other.example`, server.caPem))).toMatchObject({ code: "dns-upstream" });
  expect(server.ids).toEqual([]); // neither was told what is asked
  expect(read(await ask(`${where}#dns.example`, server.caPem)).answers).toHaveLength(1);
});

test("openUpstream() fails over TLS for what is no DNS, where nobody listens, and with its signal", async () => {
  const garbage = await serve((socket) => void socket.write(Uint8Array.of(0, 3, 1, 2, 3)));
  const ask = (port: number, caPem: string, signal = NEVER) =>
    failureOf(openUpstream(parseUpstream(`tls://127.0.0.1:${port}`), { caPem }).ask(query("web.example"), signal));
  expect(await ask(garbage.port, garbage.caPem)).toMatchObject({ code: "dns-upstream" });
  expect(await ask(1, garbage.caPem)).toMatchObject({ code: "dns-upstream" });
  const silent = await serve(() => undefined);
  const controller = new AbortController();
  const reason = new Error("enough");
  const asking = ask(silent.port, silent.caPem, controller.signal);
  controller.abort(reason);
  expect(await asking).toBe(reason);
});

test("openUpstream() passes over an answer over TLS that nobody asked for", async () => {
  const server = await serve((socket, asked) => {
    socket.write(streamEncode({ type: "response", id: (((asked[0] ?? 0) << 8) | (asked[1] ?? 0)) ^ 1, questions: [] }));
    reply(socket, asked);
  });
  const upstream = openUpstream(parseUpstream(`tls://127.0.0.1:${server.port}`), { caPem: server.caPem });
  expect(read(await upstream.ask(query("web.example"), NEVER)).answers).toHaveLength(1);
});
