import { expect, test } from "bun:test";
import fc from "fast-check";
import { type Answer, encode, type Packet } from "dns-packet";
import type { IpAddress } from "../../../src/base/ip.ts";
import { silentLogger } from "../../../src/base/log.ts";
import { type AnswersDeps, dnsAnswers } from "../../../src/node/dns-answers.ts";
import { DnsCache, ttlOf } from "../../../src/node/dns-cache.ts";
import { readMessage } from "../../../src/node/dns-message.ts";
import { leadsInside } from "../../../src/node/dns-private.ts";
import type { Upstream } from "../../../src/node/dns-upstream.ts";
import { check } from "../support/property.ts";
import { everyTruncation, noise } from "../support/noise.ts";
import { query, read } from "./dns.ts";

const CLIENT = "10.64.0.2" as IpAddress;
const OTHER = "10.64.0.3" as IpAddress;
const NEVER = new AbortController().signal;

type Records = Pick<Packet, "answers" | "authorities" | "additionals"> & { readonly rcode?: number };

/** Answers each question with the same records, and counts. */
function upstream(records: Records): Upstream & { asked: number } {
  return {
    name: "test",
    asked: 0,
    ask(bytes) {
      this.asked++;
      const { id = 0, questions = [] } = read(bytes);
      const { rcode = 0, ...rest } = records;
      return Promise.resolve(
        new Uint8Array(encode({ type: "response", id, flags: 0x0180 | rcode, questions, ...rest })),
      );
    },
  };
}

function a(data: string, ttl = 60, name = "web.example"): Answer {
  return { type: data.includes(":") ? "AAAA" : "A", name, ttl, data };
}

const SOA: Answer = {
  type: "SOA",
  name: "example",
  ttl: 900,
  data: { mname: "ns.example", rname: "admin.example", serial: 1, refresh: 1, retry: 1, expire: 1, minimum: 300 },
};

function start(records: Records, more: Partial<AnswersDeps> = {}) {
  const asked = upstream(records);
  let nowMs = 1_000_000;
  const answers = dnsAnswers({ upstreams: [asked], log: silentLogger, now: () => nowMs, ...more }, NEVER);
  return {
    asked,
    answers,
    pass: (ms: number) => void (nowMs += ms),
    ask: async (name: string, options: { id?: number; from?: IpAddress; type?: "A" | "AAAA" } = {}) => {
      const answer = await answers.answer(query(name, options), options.from ?? CLIENT);
      return answer === null ? null : read(answer);
    },
  };
}

test("dnsAnswers() remembers an answer for as long as it holds, counts its time down, and gives each asker their own id and spelling", async () => {
  const { ask, asked, pass, answers } = start({ answers: [a("203.0.113.1", 60), a("203.0.113.2", 30)] });
  expect(await ask("web.example", { id: 1 })).toMatchObject({ id: 1, answers: [{ ttl: 60 }, { ttl: 30 }] });
  pass(10_500);
  expect(await ask("WEB.Example", { id: 2, from: OTHER })).toMatchObject({
    id: 2,
    questions: [{ name: "WEB.Example" }],
    answers: [{ ttl: 50 }, { ttl: 20 }],
  });
  expect(asked.asked).toBe(1);
  pass(19_499);
  await ask("web.example");
  expect(asked.asked).toBe(1);
  pass(1); // the shortest of its records is over
  expect(await ask("web.example")).toMatchObject({ answers: [{ ttl: 60 }, { ttl: 30 }] });
  expect(asked.asked).toBe(2);
  await ask("web.example", { type: "AAAA" }); // another question
  expect(asked.asked).toBe(3);
  expect(answers.counters).toMatchObject({ queries: 5, answered: 5, cached: 2 });
});

test("dnsAnswers() remembers that a name does not exist for as long as its authority says", async () => {
  const missing = start({ rcode: 3, authorities: [SOA] });
  expect(await missing.ask("no.example")).toMatchObject({ rcode: "NXDOMAIN" });
  missing.pass(299_000);
  await missing.ask("no.example");
  expect(missing.asked.asked).toBe(1);
  missing.pass(1_000);
  await missing.ask("no.example");
  expect(missing.asked.asked).toBe(2);
});

test("dnsAnswers() keeps no failure, nothing without a time, and no denial without an authority", async () => {
  for (const records of [
    { rcode: 2 },
    { rcode: 3 },
    { answers: [] },
    { answers: [a("203.0.113.1", 0)] },
  ] satisfies Records[]) {
    const { ask, asked } = start(records);
    await ask("web.example");
    await ask("web.example");
    expect([records, asked.asked]).toEqual([records, 2]);
  }
});

test("dnsAnswers() asks once for all who ask the same at the same time", async () => {
  const { ask, asked } = start({ answers: [a("203.0.113.1")] });
  const all = await Promise.all(Array.from({ length: 50 }, (_, id) => ask("web.example", { id })));
  expect(all.map((answer) => answer?.id)).toEqual(Array.from({ length: 50 }, (_, id) => id));
  expect(asked.asked).toBe(1);
});

test("dnsAnswers() gives no public name a private address, by whichever record, but where the owner allows it", async () => {
  const inside = [
    "192.168.1.1",
    "10.1.2.3",
    "127.0.0.1",
    "169.254.169.254",
    "168.63.129.16",
    "0.0.0.0",
    "100.100.100.200",
  ];
  for (const data of [...inside, "fd00::1", "::1", "fe80::1", "::ffff:192.168.1.1", "64:ff9b::c0a8:101"]) {
    const { ask, answers } = start({ answers: [a("203.0.113.1"), a(data)] });
    expect([data, await ask("evil.example")]).toMatchObject([data, { rcode: "NOERROR", answers: [] }]);
    expect(answers.counters.private).toBe(1);
  }
  const allowed = start({ answers: [a("192.168.1.20")] }, { privateDomains: new Set(["home.example"]) });
  expect(await allowed.ask("NAS.home.example")).toMatchObject({ answers: [{ data: "192.168.1.20" }] });
  expect(await allowed.ask("home.example")).toMatchObject({ answers: [{ data: "192.168.1.20" }] });
  for (const name of ["nothome.example", "example", "home.example.evil.example"]) {
    expect([name, await allowed.ask(name)]).toMatchObject([name, { answers: [] }]);
  }
  // The page is the name that was asked, wherever an alias leads.
  const alias: Answer = { type: "CNAME", name: "evil.example", ttl: 60, data: "nas.home.example" };
  const led = start(
    { answers: [alias, a("192.168.1.20", 60, "nas.home.example")] },
    { privateDomains: new Set(["home.example"]) },
  );
  expect(await led.ask("evil.example")).toMatchObject({ answers: [] });
});

test("leadsInside() sees the addresses that an HTTPS record hints at", () => {
  const asked = query("web.example");
  const record = (hints: readonly number[]): Uint8Array => {
    const data = [0, 1, 0, ...hints];
    const header = [...asked.slice(0, 2), 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
    const fixed = [0xc0, 12, 0, 65, 0, 1, 0, 0, 0, 60, 0, data.length];
    return Uint8Array.from([...header, ...asked.slice(12), ...fixed, ...data]);
  };
  const alpn = [0, 1, 0, 3, 2, 0x68, 0x32];
  const isPrivate = (bytes: Uint8Array): boolean => {
    const message = readMessage(bytes);
    if (message === null) throw new Error("no message");
    return leadsInside(message, bytes);
  };
  expect(isPrivate(record([...alpn, 0, 4, 0, 8, 203, 0, 113, 1, 192, 168, 1, 1]))).toBe(true);
  expect(isPrivate(record([...alpn, 0, 6, 0, 16, 0xfd, ...Array<number>(15).fill(0)]))).toBe(true);
  expect(isPrivate(record([...alpn, 0, 4, 0, 4, 203, 0, 113, 1]))).toBe(false);
});

test("dnsAnswers() says of a blocked name that it does not exist, and asks nobody", async () => {
  const { ask, asked, answers } = start(
    { answers: [a("203.0.113.1")] },
    { isBlocked: (name) => name === "ads.example" },
  );
  expect(await ask("ADS.example", { id: 5 })).toMatchObject({
    id: 5,
    rcode: "NXDOMAIN",
    questions: [{ name: "ADS.example" }],
  });
  expect(asked.asked).toBe(0);
  expect(answers.counters.blocked).toBe(1);
});

test("dnsAnswers() answers nobody but clients", async () => {
  const { ask, asked, answers } = start({ answers: [a("203.0.113.1")] }, { isClient: (address) => address === CLIENT });
  expect(await ask("web.example", { from: OTHER })).toBeNull();
  expect(await ask("web.example")).not.toBeNull();
  expect([asked.asked, answers.counters.dropped]).toEqual([1, 1]);
});

test("dnsAnswers() limits each client for itself, and lets it ask again in time", async () => {
  const { ask, pass, answers } = start({ answers: [a("203.0.113.1")] });
  let got = 0;
  for (let i = 0; i < 1_000; i++) if ((await ask("web.example")) !== null) got++;
  expect(got).toBe(400);
  expect(answers.counters.limited).toBe(600);
  expect(await ask("web.example", { from: OTHER })).not.toBeNull();
  pass(1_000);
  got = 0;
  for (let i = 0; i < 100; i++) if ((await ask("web.example")) !== null) got++;
  expect(got).toBe(50);
});

test("dnsAnswers() lets no client have all the work that there can be", async () => {
  const never: Upstream = { name: "never", ask: () => new Promise(() => undefined) };
  const { ask, answers } = start({}, { upstreams: [never] });
  for (let i = 0; i < 200; i++) void ask(`q${i}.example`);
  expect([answers.counters.queries, answers.counters.dropped]).toEqual([128, 72]);
  void ask("web.example", { from: OTHER });
  expect(answers.counters.queries).toBe(129);
});

test("dnsAnswers() takes no answer to another question", async () => {
  const other: Upstream = {
    name: "other",
    ask: () => upstream({ answers: [a("203.0.113.1")] }).ask(query("x.example"), NEVER),
  };
  const { ask } = start({}, { upstreams: [other] });
  expect(await ask("web.example")).toMatchObject({ rcode: "SERVFAIL", answers: [] });
});

test("DnsCache forgets what was not asked for longest, by number and by bytes", () => {
  const message = (name: string) => {
    const answer = new Uint8Array(
      encode({
        type: "response",
        id: 0,
        flags: 0x0180,
        questions: [{ type: "A", name }],
        answers: [a("203.0.113.1", 60, name)],
      }),
    );
    const read = readMessage(answer);
    if (read === null) throw new Error("no message");
    return { answer, message: read };
  };
  const few = new DnsCache({ entries: 2, bytes: 1_000_000 });
  few.put("a", message("a.example"), 0);
  few.put("b", message("b.example"), 0);
  few.get("a", 0);
  few.put("c", message("c.example"), 0);
  expect(["a", "b", "c"].map((key) => few.get(key, 0) !== null)).toEqual([true, false, true]);
  const small = new DnsCache({ entries: 1_000, bytes: 1_000 });
  for (let i = 0; i < 100; i++) small.put(String(i), message(`n${i}.example`), 0);
  expect(small.bytes).toBeLessThanOrEqual(1_000);
  expect(small.size).toBeGreaterThan(5);
  for (let i = 0; i < 100; i++) small.get(String(i), 60_000);
  expect([small.size, small.bytes]).toEqual([0, 0]);
});

test("readMessage() reads no truncation of an answer as whole, and lives through any bytes", async () => {
  const whole = await upstream({ answers: [a("203.0.113.1"), a("2001:db8::1")], authorities: [SOA] }).ask(
    query("web.example"),
    NEVER,
  );
  const message = readMessage(whole);
  expect(message?.records.map((record) => record.type)).toEqual([1, 28, 6]);
  for (const part of everyTruncation(whole)) expect(readMessage(part)).toBeNull();
  check(
    fc.property(noise(whole), (bytes) => {
      const read = readMessage(bytes);
      if (read === null) return;
      expect(ttlOf(read, bytes)).toBeGreaterThanOrEqual(0);
      leadsInside(read, bytes);
    }),
  );
});
