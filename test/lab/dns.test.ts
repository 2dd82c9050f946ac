// Names through the exit: whichever resolver a client asks, the node answers it over HTTPS, and nobody else hears the question.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { cafeHost, DNS_NAME, homeHost, smallInternet, VPS_NAME, WEB_NAME } from "../../src/lab/small-internet.ts";
import type { Lab } from "../../src/lab/lab.ts";
import type { LabProcess } from "../../src/lab/process.ts";
import { askDns, type DnsAnswer, dns, dnsStats, forgetQueries } from "./dns-hosts.ts";
import { until } from "./harness.ts";
import {
  clientUp,
  connectClient,
  DNS_FLAGS,
  fetchPage,
  HIGGS,
  invite,
  nodeDown,
  nodeStatus,
  RELAYED_FLAGS,
  spawnNode,
  startNetworkLab,
  startNode,
  startServer,
} from "./network.ts";

const START_MS = 60_000;
const WEB4 = "203.0.113.80";
const VPS4 = "203.0.113.10";
const WEB6 = "2001:db8:80::80";
/** More than fits into 512 bytes, or into the 1232 that pass without fragments. */
const MANY_NAME = "many.lab.example";
const MANY = Array.from({ length: 90 }, (_, n) => `198.51.100.${n + 1}`);
/** Nobody has these addresses in the lab; whoever answers is not they. */
const ELSEWHERE = ["8.8.8.8", "198.51.100.7", "2001:4860:4860::8888"];
const CAFE_RESOLVER = "192.168.7.1";
const HOME_ADDRESSES = ["203.0.113.7", "2001:db8:7:1::10"];

const failures = (answers: readonly DnsAnswer[]) => answers.map((answer) => answer.failure);
const data = (answers: readonly DnsAnswer[]) => answers.map((answer) => answer.data);

describe("names through the exit", () => {
  let lab: Lab;
  let node: LabProcess;
  let node4 = "";
  let node6 = "";
  const host = (name: string) => lab.host(name);
  const everywhere = (name = WEB_NAME) =>
    [...ELSEWHERE, CAFE_RESOLVER].flatMap((server) => [dns("udp", server, name), dns("tcp", server, name)]);

  beforeAll(async () => {
    lab = await startNetworkLab(
      smallInternet({
        homeRouter: { acceptInput: true },
        extraHosts: [cafeHost("tablet", 3), homeHost("home-tv", 30)],
        extraZone: [
          ...MANY.map((address) => ({ name: MANY_NAME, type: "A" as const, data: address })),
          { name: "evil.lab.example", type: "A", data: "192.168.1.1" },
          { name: "nas.home.lab.example", type: "A", data: "192.168.1.20" },
          { name: "x.blocked.lab.example", type: "A", data: "198.51.100.200" },
        ],
      }),
    );
    await startServer(lab);
  }, START_MS);
  afterAll(async () => {
    await lab?.[Symbol.asyncDispose]();
  });

  test("positive control: without higgs only the café's resolver answers, and asks in plain text", async () => {
    await forgetQueries(lab);
    const answers = await askDns(host("laptop"), everywhere());
    expect(data(answers)).toEqual([...ELSEWHERE.flatMap(() => [[], []]), [WEB4], [WEB4]]);
    const stats = await dnsStats(lab);
    expect({ ...stats, queries: stats.queries.length }).toEqual({
      udp: 1,
      tcp: 1,
      dot: 0,
      doh: 0,
      malformed: 0,
      queries: 2,
    });
    expect(stats.queries.map((query) => query.asker)).toEqual(["203.0.113.66", "203.0.113.66"]);
  });

  test("a node whose DNS over HTTPS is dead offers no exit, and says why to itself and to the client", async () => {
    await host("dns").powerOff();
    const address = ["--dns", "https://203.0.113.53/dns-query", "--dns-ca", "/etc/lab/ca.pem", ...RELAYED_FLAGS];
    node = await spawnNode(host("home-pc"), { join: await invite(lab, "node"), flags: address });
    await node.waitForLine(/Names cannot be resolved: Cannot ask .*exit not offered/, { timeoutMs: 20_000 });
    const status = await host("home-pc").exec([HIGGS, "node", "status"]);
    expect(status.stdout).toContain("exit not ready");
    expect(status.stdout).toMatch(/Names cannot be resolved: Cannot ask https:\/\/203\.0\.113\.53\/dns-query/);
    expect(status.stdout.match(/Cannot ask/g)).toHaveLength(1);
    expect(status.code).toBe(6);
    const up = await clientUp(
      host("laptop"),
      "--join",
      await invite(lab, "client"),
      "--timeout",
      "10s",
      ...RELAYED_FLAGS,
    );
    expect(up.code).not.toBe(0);
    expect(up.stderr).toMatch(/home-pc/);
    expect(up.stderr).toMatch(/Names cannot be resolved/);
    expect(await fetchPage(host("laptop"), `http://${WEB4}/`)).toBe("203.0.113.66");
  });

  test(
    "the exit opens by itself when its resolver answers again",
    async () => {
      await host("dns").boot();
      await node.waitForLine(/exit offered/, { timeoutMs: 20_000 });
      await host("laptop").execOrThrow([HIGGS, "client", "wait", "--timeout", "15s"]);
      expect(await fetchPage(host("laptop"), `http://${WEB4}/`)).toBe("203.0.113.7");
      await nodeDown(host("home-pc"), node);
      node = await startNode(host("home-pc"), { flags: [...DNS_FLAGS, ...RELAYED_FLAGS] });
      const { tunnel } = await nodeStatus(host("home-pc"));
      node4 = tunnel.ipv4;
      node6 = tunnel.ipv6;
      await connectClient(lab, "tablet", ...RELAYED_FLAGS);
    },
    START_MS,
  );

  test("the client's own resolver answers names of both families through the tunnel", async () => {
    await forgetQueries(lab);
    expect(await host("laptop").execOrThrow(["getent", "ahostsv4", WEB_NAME])).toContain(WEB4);
    expect(await host("laptop").execOrThrow(["getent", "ahostsv6", WEB_NAME])).toContain(WEB6);
    expect(await fetchPage(host("laptop"), `http://${WEB_NAME}/`)).toMatch(/^(203\.0\.113\.7|2001:db8:7:1::10)$/);
    const stats = await dnsStats(lab);
    expect({ udp: stats.udp, tcp: stats.tcp }).toEqual({ udp: 0, tcp: 0 });
    expect(stats.doh).toBeGreaterThanOrEqual(2);
    expect(
      [...new Set(stats.queries.map((query) => query.asker))].every((asker) => HOME_ADDRESSES.includes(asker)),
    ).toBe(true);
  });

  test("every resolver that a client asks is answered by the node, over UDP and TCP, and none is asked", async () => {
    await forgetQueries(lab);
    await using cafe = await host("cafe-router").sniff("lan", "port 53");
    await using home = await host("home-router").sniff("lan", "port 53");
    // A name that was not asked before.
    const all = everywhere(VPS_NAME);
    expect(data(await askDns(host("laptop"), all))).toEqual(all.map(() => [VPS4]));
    expect(data(await askDns(host("tablet"), all))).toEqual(all.map(() => [VPS4]));
    const stats = await dnsStats(lab);
    expect({ udp: stats.udp, tcp: stats.tcp, dot: stats.dot }).toEqual({ udp: 0, tcp: 0, dot: 0 });
    // The node remembers an answer for the second that it holds: one question for all who asked meanwhile.
    expect(stats.doh).toBeGreaterThanOrEqual(1);
    expect(stats.doh).toBeLessThan(2 * all.length);
    expect([...cafe.packets(), ...home.packets()].map((packet) => packet.text)).toEqual([]);
  });

  test("a name that does not exist is said not to exist, and one without such an address has no answer", async () => {
    const [missing, absent] = await askDns(host("laptop"), [
      dns("udp", node4, "nowhere.lab.example"),
      dns("udp", node4, MANY_NAME, { type: "AAAA" }),
    ]);
    expect(missing).toMatchObject({ failure: "", code: "NXDOMAIN", data: [] });
    expect(absent).toMatchObject({ failure: "", code: "NOERROR", data: [] });
  });

  test("AAAA is answered over both families of the tunnel", async () => {
    const query = { type: "AAAA" };
    const asked = [node4, node6].flatMap((server) => [
      dns("udp", server, WEB_NAME, query),
      dns("tcp", server, WEB_NAME, query),
    ]);
    expect(data(await askDns(host("laptop"), asked))).toEqual([[WEB6], [WEB6], [WEB6], [WEB6]]);
  });

  test("an answer too long for UDP is cut with a note, and whole over TCP", async () => {
    const [short, whole] = await askDns(host("laptop"), [dns("udp", node4, MANY_NAME), dns("tcp", node4, MANY_NAME)]);
    expect(short).toMatchObject({ failure: "", truncated: true, data: [] });
    expect(short?.bytes).toBeLessThanOrEqual(512);
    expect(whole).toMatchObject({ failure: "", truncated: false, data: MANY });
    const listed = await host("laptop").execOrThrow(["getent", "ahostsv4", MANY_NAME]);
    expect(listed).toContain(MANY.at(-1) ?? "");
  });

  test("nobody of the home or the internet can ask the node's resolver, whichever way they know", async () => {
    const own = await askDns(host("home-pc"), [
      dns("udp", node4, WEB_NAME, { port: 5300 }),
      dns("tcp", node6, WEB_NAME, { port: 5300 }),
    ]);
    expect(failures(own)).toEqual(["", ""]); // positive control: it listens there
    await host("home-tv").execOrThrow(["ip", "route", "add", `${node4}/32`, "via", "192.168.1.10"]);
    await host("home-tv").execOrThrow(["ip", "route", "add", `${node6}/128`, "via", "2001:db8:7:1::10"]);
    const ways = ["192.168.1.10", "2001:db8:7:1::10", node4, node6].flatMap((server) =>
      [53, 5300].flatMap((port) => [dns("udp", server, WEB_NAME, { port }), dns("tcp", server, WEB_NAME, { port })]),
    );
    expect(failures(await askDns(host("home-tv"), ways)).filter((failure) => failure === "")).toEqual([]);
    const outside = ["203.0.113.7", "2001:db8:7:1::10"].flatMap((server) =>
      [53, 5300].flatMap((port) => [dns("udp", server, WEB_NAME, { port }), dns("tcp", server, WEB_NAME, { port })]),
    );
    expect(failures(await askDns(host("web"), outside)).filter((failure) => failure === "")).toEqual([]);
    // And a client only by the port of DNS, which leads there.
    const byOwnPort = [dns("udp", node4, WEB_NAME, { port: 5300 }), dns("tcp", node6, WEB_NAME, { port: 5300 })];
    expect(failures(await askDns(host("laptop"), byOwnPort)).filter((failure) => failure === "")).toEqual([]);
  });

  test("plain DNS is asked where a person chose udp://, and nowhere else", async () => {
    await nodeDown(host("home-pc"), node);
    await forgetQueries(lab);
    node = await startNode(host("home-pc"), { flags: ["--dns", "udp://203.0.113.53", ...RELAYED_FLAGS] });
    const asked = dns("udp", "8.8.8.8", WEB_NAME);
    await until(async () => (await askDns(host("laptop"), [asked]))[0]?.failure === "", { timeoutMs: 30_000 });
    const stats = await dnsStats(lab);
    expect(stats.udp).toBeGreaterThan(0);
    expect({ tcp: stats.tcp, dot: stats.dot, doh: stats.doh }).toEqual({ tcp: 0, dot: 0, doh: 0 });
  });

  test("DNS over TLS is asked on one connection; blocked names do not exist, and no public name leads into a home", async () => {
    const pc = host("home-pc");
    await nodeDown(pc, node);
    await pc.writeFile("/root/block.txt", `blocked.lab.example\n0.0.0.0 ${DNS_NAME}\n`);
    await forgetQueries(lab);
    const flags = ["--dns", `tls://203.0.113.53#${DNS_NAME}`, "--dns-ca", "/etc/lab/ca.pem"];
    const names = ["--dns-block", "/root/block.txt", "--dns-private", "home.lab.example"];
    node = await startNode(pc, { flags: [...flags, ...names, ...RELAYED_FLAGS] });
    const ask = async (name: string) => (await askDns(host("laptop"), [dns("udp", "8.8.8.8", name)]))[0];
    await until(async () => (await ask(WEB_NAME))?.failure === "", { timeoutMs: 30_000 });
    expect(await ask(WEB_NAME)).toMatchObject({ code: "NOERROR", data: [WEB4] });
    expect(await ask("x.blocked.lab.example")).toMatchObject({ code: "NXDOMAIN", data: [] });
    expect(await ask(DNS_NAME)).toMatchObject({ code: "NXDOMAIN", data: [] });
    expect(await ask("evil.lab.example")).toMatchObject({ code: "NOERROR", data: [] });
    expect(await ask("nas.home.lab.example")).toMatchObject({ code: "NOERROR", data: ["192.168.1.20"] });
    const stats = await dnsStats(lab);
    expect({ udp: stats.udp, tcp: stats.tcp, doh: stats.doh }).toEqual({ udp: 0, tcp: 0, doh: 0 });
    expect(stats.queries.map((query) => query.name)).not.toContain(DNS_NAME);
    expect(stats.queries.map((query) => query.name)).toContain("evil.lab.example");
    const connections = await pc.execOrThrow(["ss", "-Htn", "state", "established", "dst", "203.0.113.53"]);
    expect(connections.trim().split("\n")).toHaveLength(1);
  });

  test("a client that floods the resolver gets no more than its share, and another notices nothing", async () => {
    const flood = Array.from({ length: 900 }, () => dns("udp", node4, WEB_NAME, { waitMs: 1500 }));
    const answers = await askDns(host("laptop"), flood);
    const got = answers.filter((answer) => answer.failure === "").length;
    expect(got).toBeGreaterThan(100);
    expect(got).toBeLessThan(850); // 400 at once, and 50 more for every second that it takes to ask
    expect(failures(await askDns(host("tablet"), [dns("udp", node4, WEB_NAME)]))).toEqual([""]);
  });
});
