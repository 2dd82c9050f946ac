// The port that a home's router maps to the real node: by each protocol, from routers that lie, flood, lead astray and die, and gone at the end.
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import type { LabProcess } from "../../src/lab/process.ts";
import { smallInternet } from "../../src/lab/small-internet.ts";
import type { FakeGatewayOptions } from "../unit/net/port-mapping/fake-gateway.ts";
import { higgs, higgsOrThrow, invitesOf, killNow, pidOf, startNode, startServer } from "./client-lab.ts";
import { ROOT_DIR } from "./bundle.ts";
import { startHiggsLab, until } from "./harness.ts";

const MINUTE = 60_000;
const ROUTER = "192.168.1.1";
const EXTERNAL = "203.0.113.7";
const CAFE_ROUTER = "192.168.7.1";
const CAFE_EXTERNAL = "203.0.113.66";

let lab: Lab;
let home: LabHost;
let laptop: LabHost;
const running: LabProcess[] = [];

beforeAll(async () => {
  // Nobody foresees the ports of these two: without a mapped one there is no direct path.
  const nats = { homeNat: "symmetric-random", cafeNat: "symmetric-random" } as const;
  const topology = smallInternet({ homeIpv6: false, cafeIpv6: false, ...nats });
  lab = await startHiggsLab(topology, { programs: { bun: process.execPath }, visible: [ROOT_DIR] });
  [home, laptop] = [lab.host("home-pc"), lab.host("laptop")];
  const invites = await invitesOf(await startServer(lab));
  await higgsOrThrow(home, "node", "join", invites.node);
  await higgsOrThrow(laptop, "client", "join", invites.client);
}, MINUTE);
afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
}, MINUTE);
afterEach(async () => {
  for (const one of running.splice(0).reverse()) await one[Symbol.asyncDispose]();
  await lab.host("home-router").exec(["nft", "delete", "table", "ip", "mapped"]);
  for (const name of ["home-router", "cafe-router"]) await lab.host(name).exec(["conntrack", "-F"]);
});

async function startRouter(name: string, options: FakeGatewayOptions): Promise<LabProcess> {
  const program = join(ROOT_DIR, "test/lab/fake-gateway.program.ts");
  const router = await lab.host(name).spawn(["bun", program, JSON.stringify(options)]);
  running.push(router);
  await router.waitForLine(/^serving$/);
  return router;
}

const homeRouter = (manners: Partial<FakeGatewayOptions>): Promise<LabProcess> =>
  startRouter("home-router", { address: ROUTER, external: EXTERNAL, ...manners });

async function node(...flags: readonly string[]): Promise<LabProcess> {
  const started = await startNode(lab, ...flags);
  running.push(started);
  return started;
}

interface Port {
  readonly state: string;
  readonly protocol: string | null;
  readonly endpoint: string | null;
  readonly router: string | null;
}

async function portOf(host: LabHost, role: "node" | "client"): Promise<Port> {
  const { stdout } = await higgs(host, role, "status", "--json");
  return (JSON.parse(stdout) as { portMapping: Port }).portMapping;
}

async function settledPort(host: LabHost = home, role: "node" | "client" = "node"): Promise<Port> {
  const is = async (): Promise<Port | null> => {
    const port = await portOf(host, role);
    return port.state === "asking" ? null : port;
  };
  return await until(is, { what: "an answer of the router" });
}

/** UDP ports that the router leads inside. */
async function forwarded(): Promise<readonly number[]> {
  const { stdout } = await lab.host("home-router").exec(["nft", "list", "table", "ip", "mapped"]);
  return [...stdout.matchAll(/udp dport (\d+) dnat/g)].map((match) => Number(match[1]));
}

async function pathOf(host: LabHost): Promise<string | undefined> {
  const { stdout } = await higgs(host, "client", "status", "--json");
  return (JSON.parse(stdout) as { path: { kind: string } | null }).path?.kind;
}

async function nodePort(): Promise<number> {
  return Number(await home.execOrThrow(["wg", "show", "higgsn0", "listen-port"]));
}

describe("a home whose router maps ports", () => {
  for (const [manner, protocol] of [
    ["pcp", "pcp"],
    ["natPmp", "nat-pmp"],
    ["upnp", "upnp"],
  ] as const) {
    test(
      `by ${protocol}: the node says so, the laptop comes directly, and the port is closed with the node`,
      async () => {
        await homeRouter({ [manner]: "honest" });
        const started = await node();
        const endpoint = `${EXTERNAL}:${await nodePort()}`;
        expect(await settledPort()).toEqual({ state: "mapped", protocol, endpoint, router: ROUTER });
        await started.waitForLine(/port mapped/);
        expect(await forwarded()).toEqual([await nodePort()]);
        expect(await higgsOrThrow(home, "netcheck")).toMatch(new RegExp(`mapped by the router +${endpoint} by`));
        await higgsOrThrow(laptop, "client", "up");
        await until(async () => (await pathOf(laptop)) === "direct", { what: "a direct path to the mapped port" });
        await higgsOrThrow(laptop, "client", "down");
        await higgsOrThrow(home, "node", "down");
        await started.exited;
        expect(await forwarded()).toEqual([]);
      },
      MINUTE,
    );
  }

  test(
    "and one that maps none leaves the relay, and why and the status say what to do",
    async () => {
      await node();
      expect(await settledPort()).toMatchObject({ state: "none", router: ROUTER });
      await higgsOrThrow(laptop, "client", "up");
      await until(async () => (await pathOf(laptop)) === "udp-relay", { what: "the relay" });
      const why = await higgsOrThrow(laptop, "why", "home-pc");
      expect(why).toContain("switch on UPnP, NAT-PMP or PCP");
      expect(why).toContain(`This network's router at ${CAFE_ROUTER} maps no port`);
      await higgsOrThrow(laptop, "client", "down");
    },
    MINUTE,
  );

  test(
    "is not asked with --no-port-mapping",
    async () => {
      const router = await homeRouter({ pcp: "honest", natPmp: "honest", upnp: "honest" });
      await node("--no-port-mapping");
      expect(await portOf(home, "node")).toMatchObject({ state: "off" });
      router.kill("SIGUSR1");
      expect(await router.waitForLine(/^asked/)).toBe("asked ");
    },
    MINUTE,
  );

  test(
    "has the mapping of a killed node taken over by the next, by the secret that only the machine knows",
    async () => {
      await homeRouter({ pcp: "honest" });
      await node();
      await settledPort();
      const before = await forwarded();
      await killNow(home, await pidOf(home, "node"));
      expect(await forwarded()).toEqual(before);
      const next = await node();
      expect(await settledPort()).toMatchObject({ state: "mapped" });
      expect(await forwarded()).toEqual(before);
      await higgsOrThrow(home, "node", "down");
      await next.exited;
      expect(await forwarded()).toEqual([]);
    },
    MINUTE,
  );
});

describe("a router that is no friend", () => {
  const web = "http://203.0.113.80/";
  const LIAR = { lies: "203.0.113.80" } as const;
  for (const [what, manners] of [
    ["names another's address", { pcp: LIAR, natPmp: LIAR, upnp: LIAR }],
    ["has only a private address to give", { pcp: { lies: "10.0.0.1" }, upnp: { lies: "100.64.1.1" } }],
    ["answers with more than anybody reads", { pcp: "huge", natPmp: "huge", upnp: "huge" }],
    ["answers with what is no answer", { pcp: "garbage", natPmp: "garbage", upnp: "garbage" }],
    ["leads elsewhere by HTTP", { upnp: { redirects: web } }],
    ["leads elsewhere by its search answer", { upnp: { location: `${web}root.xml` } }],
    ["leases for no time", { pcp: "lease-0", natPmp: "lease-0" }],
  ] as const) {
    test(
      `${what} is not believed, and the node goes on`,
      async () => {
        await homeRouter(manners);
        await using sniffer = await home.sniff("eth0", "tcp[tcpflags] & tcp-syn != 0 and dst host 203.0.113.80");
        await higgsOrThrow(home, "lab-service", "fetch", web); // the sniffer sees who goes there
        // By their ports, as one may be sent twice.
        const seen = (): number => new Set(sniffer.packets().map(({ text }) => text)).size;
        await until(() => seen() === 1, { what: "the first packet to the web server" });
        await node();
        // A liar may be believed until STUN has answered, and no longer.
        await until(async () => (await settledPort()).state === "none", { what: "a router that is not believed" });
        expect(await portOf(home, "node")).toMatchObject({ endpoint: null });
        expect(await forwarded()).toEqual([]);
        expect(seen()).toBe(1);
        expect(JSON.parse((await higgs(home, "node", "status", "--json")).stdout)).toMatchObject({
          state: "connected",
        });
      },
      MINUTE,
    );
  }

  test(
    "dies and lives again: the mapping is given up, and found again",
    async () => {
      const router = await homeRouter({ natPmp: "honest" });
      const started = await node();
      expect(await settledPort()).toMatchObject({ state: "mapped" });
      await router[Symbol.asyncDispose]();
      // Another network, for a moment: then the router is asked at once.
      await home.execOrThrow(["ip", "address", "add", "192.168.1.11/24", "dev", "eth0"]);
      await started.waitForLine(/port mapping is gone/, { timeoutMs: 30_000 });
      expect(await portOf(home, "node")).toMatchObject({ state: "none" });
      await homeRouter({ upnp: "honest" });
      await home.execOrThrow(["ip", "address", "del", "192.168.1.11/24", "dev", "eth0"]);
      await until(async () => (await portOf(home, "node")).protocol === "upnp", {
        what: "a mapping by the new router",
      });
    },
    MINUTE,
  );
});

test(
  "a laptop in a full tunnel keeps its own router's mapping by UPnP, whose TCP goes past the tunnel and nobody else's does",
  async () => {
    await node("--no-port-mapping");
    await startRouter("cafe-router", { address: CAFE_ROUTER, external: CAFE_EXTERNAL, upnp: "honest" });
    await higgsOrThrow(laptop, "client", "up");
    expect(await settledPort(laptop, "client")).toMatchObject({ state: "mapped", protocol: "upnp" });
    const rules = await laptop.execOrThrow(["ip", "rule", "show"]);
    expect(rules).toMatch(/to 192\.168\.7\.1 iif lo uidrange 0-0 ipproto tcp dport \d+ lookup main/);
    await higgsOrThrow(laptop, "client", "down");
    const { stdout } = await lab.host("cafe-router").exec(["nft", "list", "table", "ip", "mapped"]);
    expect(stdout).not.toContain("dnat");
  },
  MINUTE,
);
