// Two machines in one place: on one LAN, kept apart behind one router, and behind two routers in a row.
import { expect, test } from "bun:test";
import { homeHost, smallInternet } from "../../src/lab/small-internet.ts";
import type { Lab } from "../../src/lab/lab.ts";
import type { HostSpec, InterfaceSpec, RouterSpec, Topology } from "../../src/lab/topology.ts";
import { higgs, HOME4, page, PAGE4, startClientLab, startNetwork } from "./client-lab.ts";
import { until } from "./harness.ts";

const MINUTE = 60_000;
const PC = "192.168.1.10";
const LAPTOP = "192.168.1.30";

interface Path {
  readonly kind: string;
  readonly endpoint: string | null;
}

/** The laptop at home, beside the home PC. */
function atHome(homeRouter: Partial<RouterSpec>): Topology {
  const base = smallInternet({ homeIpv6: false, cafeIpv6: false, homeRouter });
  const laptop = { ...homeHost("laptop", 30, { ipv6: false }) };
  return { ...base, hosts: [...base.hosts.filter(({ name }) => name !== "laptop"), laptop] };
}

async function connected(lab: Lab): Promise<void> {
  await startNetwork(lab);
  expect((await higgs(lab.host("laptop"), "client", "up")).code).toBe(0);
}

async function pathOf(lab: Lab): Promise<Path> {
  const { stdout } = await higgs(lab.host("laptop"), "client", "status", "--json");
  return (JSON.parse(stdout) as { path: Path }).path;
}

async function untilPath(lab: Lab, kind: string): Promise<Path> {
  return await until(
    async () => {
      const path = await pathOf(lab);
      return path.kind === kind ? path : null;
    },
    { everyMs: 100, what: `the path ${kind}` },
  );
}

for (const hairpin of [false, true]) {
  test(
    `on one LAN the path is the LAN's own, with a router that does ${hairpin ? "" : "no "}hairpin`,
    async () => {
      await using lab = await startClientLab(atHome({ nat: "full-cone", hairpin }));
      await connected(lab);
      // Another direct path may answer first; the LAN's is the better one.
      const isLan = async (): Promise<boolean> => (await pathOf(lab)).endpoint?.startsWith(`${PC}:`) === true;
      await until(isLan, { everyMs: 100, what: "the LAN's own path" });
      // The router sees none of it.
      await using sniffer = await lab.host("home-router").sniff("lan", `udp and host ${PC} and host ${LAPTOP}`);
      expect(await page(lab.host("laptop"), PAGE4)).toBe(HOME4);
      expect(sniffer.packets()).toEqual([]);
    },
    MINUTE,
  );

  test(
    `kept apart by a router that does ${hairpin ? "" : "no "}hairpin, ${hairpin ? "the path is its public address" : "the server relays"}`,
    async () => {
      await using lab = await startClientLab(atHome({ nat: "full-cone", hairpin }));
      // As an access point does that isolates its guests; what the router turns round comes from its own address.
      for (const [name, other] of [
        ["laptop", PC],
        ["home-pc", LAPTOP],
      ] as const) {
        const rules = `table ip apart {\n chain input {\n type filter hook input priority -300\n ip saddr ${other} drop\n }\n}`;
        await lab.host(name).execOrThrow(["nft", "-f", "-"], { stdin: rules });
      }
      await connected(lab);
      const path = await untilPath(lab, hairpin ? "direct" : "udp-relay");
      if (hairpin) expect(path.endpoint).toMatch(/^(203\.0\.113\.7|192\.168\.1\.1):/);
      expect(await page(lab.host("laptop"), PAGE4)).toBe(HOME4);
      // Nothing better turns up: what was found is what there is.
      if (!hairpin) expect((await pathOf(lab)).kind).toBe("udp-relay");
    },
    MINUTE,
  );
}

/** The provider's router between the internet and the home's own, as carriers have it for want of addresses. */
function behindCarrier(): Topology {
  const base = smallInternet({ homeIpv6: false, cafeIpv6: false });
  const toCarrier = (link: InterfaceSpec): InterfaceSpec =>
    link.name === "wan" ? { ...link, segment: "carrier-lan", ipv4: "100.64.0.7/24" } : link;
  const carrier: HostSpec = {
    name: "carrier",
    kind: "router",
    interfaces: [
      { name: "wan", segment: "internet", ipv4: `${HOME4}/24` },
      { name: "lan", segment: "carrier-lan", ipv4: "100.64.0.1/24" },
    ],
    routes: [{ to: "default4", via: "203.0.113.1" }],
    nameservers: ["203.0.113.53"],
    router: { wan: "wan", lan: "lan", nat: "port-restricted-non-preserving" },
  };
  const hosts = base.hosts.map((host) =>
    host.name === "home-router"
      ? { ...host, interfaces: host.interfaces.map(toCarrier), routes: [{ to: "default4", via: "100.64.0.1" }] }
      : host,
  );
  return { segments: [...base.segments, { name: "carrier-lan" }], hosts: [...hosts, carrier] };
}

test(
  "behind two routers in a row the path is direct all the same",
  async () => {
    await using lab = await startClientLab(behindCarrier());
    await connected(lab);
    const path = await untilPath(lab, "direct");
    expect(path.endpoint).toStartWith(`${HOME4}:`);
    expect(await page(lab.host("laptop"), PAGE4)).toBe(HOME4);
  },
  MINUTE,
);
