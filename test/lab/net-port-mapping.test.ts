// A machine behind a router that maps ports: reachable from outside by each protocol, also past a full tunnel, and not any more at the end.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import type { IpAddress } from "../../src/base/ip.ts";
import { type Lab, startLab } from "../../src/lab/lab.ts";
import type { LabProcess } from "../../src/lab/process.ts";
import { smallInternet } from "../../src/lab/small-internet.ts";
import { IDENTIFIERS } from "../../src/net/identifiers.ts";
import type { PortMapperOptions } from "../../src/net/port-mapping/port-mapping.ts";
import type { FakeGatewayOptions } from "../unit/net/port-mapping/fake-gateway.ts";
import { ROOT_DIR } from "./bundle.ts";
import { requireLab, until } from "./harness.ts";
import { type PathHost, startDriver } from "./path-hosts.ts";

const ROUTER = "192.168.1.1";
const EXTERNAL = "203.0.113.7";
const HOME = "192.168.1.10";
const PORT = 51820;
const VPS_PORT = 51821;

const OPTIONS: Omit<PortMapperOptions, "onChange"> = {
  gateway: ROUTER as IpAddress,
  localAddress: HOME as IpAddress,
  internalPort: PORT,
};

let lab: Lab;
let home: PathHost;
let vps: PathHost;
beforeAll(async () => {
  await requireLab();
  lab = await startLab(smallInternet(), { programs: { bun: process.execPath }, visible: [ROOT_DIR] });
}, 90_000);
afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
});
beforeEach(async () => {
  [home, vps] = await Promise.all([startDriver(lab.host("home-pc")), startDriver(lab.host("vps"))]);
  // No WireGuard is needed to be reached: the bridge has the port itself.
  await home.order({ do: "open", mechanism: "bridge", ports: { wireGuardPort: 51900, publicPort: PORT } });
  await vps.order({ do: "open", mechanism: "bridge", ports: { wireGuardPort: 51900, publicPort: VPS_PORT } });
}, 90_000);
afterEach(async () => {
  for (const end of [home, vps]) await end.process[Symbol.asyncDispose]();
});

async function startRouter(manners: Partial<FakeGatewayOptions>): Promise<LabProcess> {
  const options = JSON.stringify({ address: ROUTER, external: EXTERNAL, ...manners });
  const program = join(ROOT_DIR, "test/lab/fake-gateway.program.ts");
  const router = await lab.host("home-router").spawn(["bun", program, options]);
  await router.waitForLine(/^serving$/);
  return router;
}

/** What the home sees of a stranger on the internet who talks to its router; null for silence. */
function reach(port: number): Promise<string | null> {
  return vps.order<string | null>({ do: "ask", to: `${EXTERNAL}:${port}` });
}

const mapping = async () => (await home.status()).mapping;
const mapped = () => until(mapping, { what: "a mapping" });

describe("a port that the router maps", () => {
  for (const [manner, protocol] of [
    ["pcp", "pcp"],
    ["natPmp", "nat-pmp"],
    ["upnp", "upnp"],
  ] as const) {
    test(`by ${protocol} lets strangers in, and is closed again at the end`, async () => {
      await using _ = await startRouter({ [manner]: "honest" });
      expect(await reach(PORT)).toBe(null);
      await home.order({ do: "map", options: OPTIONS });
      expect(await mapped()).toEqual({ protocol, external: { address: EXTERNAL as IpAddress, port: PORT } });
      expect(await reach(PORT)).toBe(`203.0.113.10:${VPS_PORT}`);
      await home.order({ do: "unmap" });
      expect(await lab.host("home-router").execOrThrow(["nft", "list", "table", "ip", "mapped"])).not.toContain("dnat");
      await lab.host("home-router").execOrThrow(["conntrack", "-F"]);
      expect(await reach(PORT)).toBe(null);
    }, 90_000);
  }

  test("is asked for past a full tunnel, by the mark of our own sockets", async () => {
    await using _ = await startRouter({ pcp: "honest" });
    const { mark, markMask } = IDENTIFIERS.node;
    const rule = ["pref", "100", "not", "fwmark", `${mark}/${markMask}`, "lookup", "99"];
    // The answers' marks are the client's firewall's work; here nobody looks for a way back.
    const unfiltered = ["all", "eth0"].map((name) => `net.ipv4.conf.${name}.rp_filter=0`);
    await lab.host("home-pc").execOrThrow(["sysctl", "-q", "-w", ...unfiltered]);
    await lab.host("home-pc").execOrThrow(["ip", "route", "add", "unreachable", "default", "table", "99"]);
    await lab.host("home-pc").execOrThrow(["ip", "rule", "add", ...rule]);
    try {
      await home.order({ do: "map", options: OPTIONS });
      await home.process.waitForLine(/the router maps no port/);
      await home.order({ do: "unmap" });
      await home.order({ do: "map", options: { ...OPTIONS, mark } });
      expect((await mapped()).protocol).toBe("pcp");
      await home.order({ do: "unmap" });
    } finally {
      await lab.host("home-pc").execOrThrow(["ip", "rule", "del", ...rule]);
    }
  }, 90_000);

  test("is given up when the router dies, and found again when it lives", async () => {
    const router = await startRouter({ pcp: "honest", natPmp: "honest" });
    await home.order({ do: "map", options: OPTIONS });
    expect((await mapped()).protocol).toBe("pcp");
    await router[Symbol.asyncDispose]();
    await home.order({ do: "refresh" });
    await until(async () => (await mapping()) === null, { what: "no mapping", timeoutMs: 25_000 });
    await using _ = await startRouter({ natPmp: "honest" });
    await home.order({ do: "refresh" });
    expect((await mapped()).protocol).toBe("nat-pmp");
  }, 120_000);
});
