import { afterEach, expect, test } from "bun:test";
import type { IpAddress } from "../../../src/base/ip.ts";
import { silentLogger } from "../../../src/base/log.ts";
import { type Upstream, UpstreamError } from "../../../src/node/dns-upstream.ts";
import { isQuery } from "../../../src/node/dns-answers.ts";
import { fitUdp, openResolver, type Resolver } from "../../../src/node/resolver.ts";
import { everyTruncation } from "../support/noise.ts";
import { failureOf } from "../support/failure.ts";
import { answerTo, query, read } from "./dns.ts";

const NEVER = new AbortController().signal;
const stack: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of stack.splice(0).reverse()) await end();
});

async function until(what: () => boolean): Promise<void> {
  while (!what()) await Bun.sleep(1);
}

/** Answers with a number of records, or not at all. */
function upstream(name: string, answers: number | null): Upstream & { asked: number } {
  return {
    name,
    asked: 0,
    ask(asked) {
      this.asked++;
      if (answers === null) return Promise.reject(new UpstreamError(`Cannot ask ${name}.`, { code: "dns-upstream" }));
      return Promise.resolve(answerTo(asked, answers));
    },
  };
}

/** A resolver on a port of loopback that is free for both protocols. */
async function start(...upstreams: Upstream[]): Promise<{ readonly resolver: Resolver; readonly port: number }> {
  for (;;) {
    const probe = await Bun.udpSocket({ hostname: "127.0.0.1", port: 0 });
    const { port } = probe;
    probe.close();
    try {
      const addresses = ["127.0.0.1", "127.0.0.2"] as IpAddress[];
      const resolver = await openResolver({ upstreams, log: silentLogger }, { addresses, port });
      stack.push(() => resolver[Symbol.asyncDispose]());
      return { resolver, port };
    } catch (thrown) {
      if ((thrown as { code?: string }).code !== "resolver-bind") throw thrown; // somebody took the port meanwhile
    }
  }
}

async function overUdp(port: number, packets: readonly Uint8Array[], address = "127.0.0.1"): Promise<Uint8Array[]> {
  const answers: Uint8Array[] = [];
  const socket = await Bun.udpSocket({
    hostname: "127.0.0.1",
    port: 0,
    binaryType: "uint8array",
    socket: { data: (_socket, packet) => void answers.push(packet.slice()) },
  });
  stack.push(() => socket.close());
  for (const packet of packets) socket.send(packet, port, address);
  await until(() => answers.length > 0);
  return answers;
}

/** Bytes in, bytes out; a message has its length before it. */
async function overTcp(port: number, bytes: Uint8Array, wanted: number): Promise<Uint8Array[]> {
  const messages: Uint8Array[] = [];
  let waiting = new Uint8Array(0);
  const ended = Promise.withResolvers<void>();
  const socket = await Bun.connect({
    hostname: "127.0.0.1",
    port,
    socket: {
      data(_socket, chunk) {
        waiting = Uint8Array.from([...waiting, ...chunk]);
        for (;;) {
          const length = ((waiting[0] ?? 0) << 8) | (waiting[1] ?? 0);
          if (waiting.length < 2 || waiting.length < 2 + length) break;
          messages.push(waiting.slice(2, 2 + length));
          waiting = waiting.slice(2 + length);
        }
        if (messages.length >= wanted) ended.resolve();
      },
      close: () => ended.resolve(),
    },
  });
  stack.push(() => socket.end());
  socket.write(bytes);
  await ended.promise;
  return messages;
}

function framed(message: Uint8Array): Uint8Array {
  return Uint8Array.of(message.length >> 8, message.length & 0xff, ...message);
}

test("openResolver() answers over UDP and TCP, on each address that it was given", async () => {
  const { resolver, port } = await start(upstream("a", 1));
  for (const address of ["127.0.0.1", "127.0.0.2"]) {
    const [answer] = await overUdp(port, [query("web.example", { id: 9 })], address);
    expect(read(answer ?? new Uint8Array(0))).toMatchObject({ id: 9, answers: [{ name: "web.example" }] });
  }
  const [answer] = await overTcp(port, framed(query("web.example", { id: 10 })), 1);
  expect(read(answer ?? new Uint8Array(0))).toMatchObject({ id: 10, answers: [{ name: "web.example" }] });
  expect(resolver.counters).toMatchObject({ queries: 3, answered: 3, cached: 2, failed: 0, dropped: 0 });
});

test("openResolver() asks the next upstream after a failure, and that one first from then on", async () => {
  const [dead, living] = [upstream("dead", null), upstream("living", 1)];
  const { port } = await start(dead, living);
  await overUdp(port, [query("one.example")]);
  await overUdp(port, [query("two.example")]);
  expect([dead.asked, living.asked]).toEqual([1, 2]);
});

test("openResolver() answers SERVFAIL when nobody else answers", async () => {
  const { resolver, port } = await start(upstream("a", null), upstream("b", null));
  const [answer] = await overUdp(port, [query("web.example", { id: 11 })]);
  expect(read(answer ?? new Uint8Array(0))).toMatchObject({
    id: 11,
    type: "response",
    rcode: "SERVFAIL",
    questions: [{ name: "web.example" }],
  });
  expect(resolver.counters).toMatchObject({ queries: 1, answered: 0, failed: 1, dropped: 0 });
});

test("openResolver() truncates over UDP what is too long for the asker, who gets it over TCP", async () => {
  const { port } = await start(upstream("long", 100));
  const [short] = await overUdp(port, [query("long.example")]);
  expect(read(short ?? new Uint8Array(0))).toMatchObject({
    flag_tc: true,
    answers: [],
    questions: [{ name: "long.example" }],
  });
  expect(short?.length).toBeLessThanOrEqual(512);
  const [whole] = await overTcp(port, framed(query("long.example")), 1);
  expect(read(whole ?? new Uint8Array(0)).answers).toHaveLength(100);
});

test("openResolver() sends the longest answer there can be over TCP whole", async () => {
  const { port } = await start(upstream("longest", 2_500));
  const [whole] = await overTcp(port, framed(query("l.example")), 1);
  expect(whole?.length).toBeGreaterThan(60_000);
  expect(read(whole ?? new Uint8Array(0)).answers).toHaveLength(2_500);
});

test("openResolver() answers each of several questions on one TCP connection, however they were cut", async () => {
  const { port } = await start(upstream("a", 1));
  const questions = [1, 2, 3].flatMap((id) => [...framed(query(`q${id}.example`, { id }))]);
  const messages = await overTcp(port, Uint8Array.from(questions), 3);
  expect(messages.map((message) => read(message).id ?? 0).toSorted((a, b) => a - b)).toEqual([1, 2, 3]);
});

test("openResolver() drops what is no query, and goes on", async () => {
  const { resolver, port } = await start(upstream("a", 1));
  const response = answerTo(query("web.example"));
  const wrong = [
    response,
    query("x.example").with(5, 2),
    query("x.example").with(2, 0x28),
    new Uint8Array(5),
    new Uint8Array(5000),
  ];
  const answers = await overUdp(port, [...wrong, query("web.example", { id: 12 })]);
  expect(answers.map((answer) => read(answer).id)).toEqual([12]);
  expect(resolver.counters.dropped).toBe(wrong.length);
});

test("openResolver() ends a TCP connection that announces too much", async () => {
  const { resolver, port } = await start(upstream("a", 1));
  expect(await overTcp(port, Uint8Array.of(0xff, 0xff, 1, 2, 3), 1)).toEqual([]);
  expect(resolver.counters.dropped).toBe(1);
});

test("probe() says why nobody answers, or nothing", async () => {
  const { resolver } = await start(upstream("dead", null));
  expect(await resolver.probe(NEVER)).toBe("Cannot ask dead.");
  expect(await (await start(upstream("living", 1))).resolver.probe(NEVER)).toBeNull();
  expect(await (await start()).resolver.probe(NEVER)).toContain("no upstream is set");
});

test("openResolver() says which port is taken", async () => {
  const { port } = await start(upstream("a", 1));
  const second = openResolver({ upstreams: [], log: silentLogger }, { addresses: ["127.0.0.1" as IpAddress], port });
  expect(await failureOf(second)).toMatchObject({
    code: "resolver-bind",
    message: expect.stringContaining(String(port)) as unknown,
  });
});

test("isQuery() takes a standard query with one question, and none of its beginnings that hold no question", () => {
  const whole = query("web.example");
  expect(isQuery(whole)).toBe(true);
  for (const part of everyTruncation(whole).slice(0, 17)) expect(isQuery(part)).toBe(false);
});

test("fitUdp() keeps to what the asker takes, and to what goes through without fragments", () => {
  const isWhole = (count: number, udpSize?: number): boolean => {
    const asked = query("web.example", udpSize === undefined ? {} : { udpSize });
    const answer = answerTo(asked, count);
    return fitUdp(asked, answer) === answer;
  };
  expect(isWhole(10)).toBe(true);
  expect(isWhole(40)).toBe(false);
  expect(isWhole(40, 1232)).toBe(true);
  expect(isWhole(40, 4096)).toBe(true);
  expect(isWhole(90, 4096)).toBe(false);
  expect(isWhole(10, 100)).toBe(true); // less than 512 counts as 512 (RFC 6891 section 6.2.3)
});
