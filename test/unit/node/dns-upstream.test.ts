import { expect, test } from "bun:test";
import { parseUpstream, UpstreamError, upstreamName } from "../../../src/node/dns-upstream.ts";
import { openUpstream } from "../../../src/node/open-upstream.ts";
import { failureOf } from "../support/failure.ts";
import { answerTo, dnsMessage, httpsUpstream, query, read, udpUpstream } from "./dns.ts";

const NEVER = new AbortController().signal;

test("parseUpstream() takes HTTPS by URL and plain DNS by address, and names them as a person would", () => {
  for (const [text, name] of [
    ["https://9.9.9.9/dns-query", "https://9.9.9.9/dns-query"],
    ["https://dns.example:8443/q", "https://dns.example:8443/q"],
    ["tls://9.9.9.9", "tls://9.9.9.9:853"],
    ["tls://dns.example:8853", "tls://dns.example:8853"],
    ["tls://[2620:fe::fe]", "tls://[2620:fe::fe]:853"],
    ["tls://9.9.9.9#dns.quad9.net", "tls://9.9.9.9:853#dns.quad9.net"],
    ["udp://192.168.1.1", "udp://192.168.1.1:53"],
    ["udp://192.168.1.1:5353", "udp://192.168.1.1:5353"],
    ["udp://fd00::1", "udp://[fd00::1]:53"],
    ["udp://[fd00::1]", "udp://[fd00::1]:53"],
    ["udp://[fd00::1]:5353", "udp://[fd00::1]:5353"],
  ] as const) {
    expect(upstreamName(parseUpstream(text))).toBe(name);
  }
});

test("parseUpstream() refuses everything else, and shows it with what would do", () => {
  for (const text of [
    "",
    "9.9.9.9",
    "http://9.9.9.9/",
    "tls://",
    "tls://dns example",
    "tls://9.9.9.9:0",
    "tls://9.9.9.9#not a name",
    "udp://dns.example",
    "udp://",
    "udp://1.1.1.1:0",
    "ftp://x",
  ]) {
    try {
      parseUpstream(text);
      throw new Error(`"${text}" was taken`);
    } catch (thrown) {
      expect(thrown).toBeInstanceOf(UpstreamError);
      expect(thrown).toMatchObject({ code: "bad-dns" });
      expect(String(thrown)).toContain(`"${text}"`);
    }
  }
});

test("openUpstream() asks over HTTPS with id 0, and gives the answer the question's id", async () => {
  await using server = await httpsUpstream((asked) => dnsMessage(answerTo(asked)));
  const upstream = openUpstream({ kind: "https", url: server.url }, { caPem: server.caPem });
  const asked = query("web.example", { id: 0xabcd });
  const answer = await upstream.ask(asked, NEVER);
  expect(read(answer)).toMatchObject({ id: 0xabcd, answers: [{ name: "web.example", data: "192.0.2.0" }] });
  expect(server.requests).toHaveLength(1);
  expect(server.requests[0]).toMatchObject({ method: "POST", type: "application/dns-message" });
  expect([...(server.requests[0]?.body.subarray(0, 2) ?? [])]).toEqual([0, 0]);
  expect(asked.slice(0, 2)).toEqual(Uint8Array.of(0xab, 0xcd)); // the caller's bytes are its own
});

test("openUpstream() believes no HTTPS server but one of the given root", async () => {
  await using server = await httpsUpstream((asked) => dnsMessage(answerTo(asked)));
  const upstream = openUpstream({ kind: "https", url: server.url }, { caPem: null });
  expect(await failureOf(upstream.ask(query("web.example"), NEVER))).toMatchObject({ code: "dns-upstream" });
  expect(server.requests).toEqual([]);
});

test("openUpstream() refuses an answer over HTTPS that is none", async () => {
  const answers: (() => Response)[] = [
    () => new Response("nothing here", { status: 404 }),
    () => new Response("<html>", { headers: { "content-type": "text/html" } }),
    () => dnsMessage(new Uint8Array(11)),
    () => dnsMessage(new Uint8Array(65_536)),
    () => Response.redirect("https://127.0.0.1:1/", 302),
  ];
  for (const answer of answers) {
    await using server = await httpsUpstream(answer);
    const upstream = openUpstream({ kind: "https", url: server.url }, { caPem: server.caPem });
    expect(await failureOf(upstream.ask(query("web.example"), NEVER))).toBeInstanceOf(UpstreamError);
  }
});

test("openUpstream() asks over UDP, and passes over what is no answer to the question", async () => {
  using server = await udpUpstream((asked) => [
    answerTo(asked).with(0, 0xff),
    new Uint8Array(11),
    new Uint8Array(0),
    answerTo(asked),
  ]);
  const upstream = openUpstream(parseUpstream(`udp://127.0.0.1:${server.port}`), { caPem: null });
  const answer = await upstream.ask(query("web.example", { id: 7 }), NEVER);
  expect(read(answer)).toMatchObject({ id: 7, answers: [{ data: "192.0.2.0" }] });
  // The question is the client's; the id is not, so that it cannot be known from the tunnel.
  expect(server.queries.map((one) => one.subarray(2))).toEqual([query("web.example").subarray(2)]);
});

test("openUpstream() fails at once where nobody listens", async () => {
  const gone = await udpUpstream(() => []);
  gone[Symbol.dispose]();
  const upstream = openUpstream(parseUpstream(`udp://127.0.0.1:${gone.port}`), { caPem: null });
  expect(await failureOf(upstream.ask(query("web.example"), NEVER))).toMatchObject({ code: "dns-upstream" });
});

test("openUpstream() ends with its signal", async () => {
  using silent = await udpUpstream(() => []);
  const hung = Promise.withResolvers<Response>();
  await using https = await httpsUpstream(() => hung.promise);
  const upstreams = [
    openUpstream(parseUpstream(`udp://127.0.0.1:${silent.port}`), { caPem: null }),
    openUpstream({ kind: "https", url: https.url }, { caPem: https.caPem }),
  ];
  const reason = new Error("enough");
  for (const upstream of upstreams) {
    const controller = new AbortController();
    const asking = failureOf(upstream.ask(query("web.example"), controller.signal));
    controller.abort(reason);
    expect(await asking).toBe(reason);
  }
  hung.resolve(new Response(null));
});
