// One client of a node on a path that drops large packets without a word, a good one beside it: transfers complete, and the good one keeps its size.
import { afterAll, beforeAll, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import type { Topology } from "../../src/lab/topology.ts";
import { transfer, untilPath, WEB4, withMobile } from "./cables.ts";
import { higgsOrThrow, invite, startClientLab, startNetwork } from "./client-lab.ts";
import { until } from "./harness.ts";

const MINUTE = 60_000;
const BYTES = 10_000_000;
/** An inner packet of 1 420 bytes, the tunnel's own size. */
const FULL_PING = ["ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s", "1392", WEB4];

function withTablet(base: Topology): Topology {
  const laptop = base.hosts.find(({ name }) => name === "laptop");
  if (laptop === undefined) throw new Error("no laptop");
  const tablet = {
    ...laptop,
    name: "tablet",
    interfaces: [{ name: "eth0", segment: "mobile", ipv4: "192.168.99.5/24" }],
    routes: [{ to: "default4", via: "192.168.99.1" }],
    nameservers: ["192.168.99.1"],
  };
  return { ...base, hosts: [...base.hosts, tablet] };
}

let lab: Lab;
let laptop: LabHost;
let tablet: LabHost;

beforeAll(async () => {
  lab = await startClientLab(withTablet(withMobile()));
  [laptop, tablet] = [lab.host("laptop"), lab.host("tablet")];
  await startNetwork(lab);
  await higgsOrThrow(tablet, "client", "up", "--join", await invite(lab, "client"));
}, MINUTE);
afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
}, MINUTE);

/**
 * The café passes no larger packets, in either direction, and says nothing. Of TCP it makes segments that fit, as such routers do. Sizes
 * are the links', as several datagrams travel through the lab as one.
 */
async function narrow(bytes: number): Promise<void> {
  const router = lab.host("cafe-router");
  await router.writeFile(
    "/root/narrow.nft",
    `table ip narrow
delete table ip narrow
table ip narrow {
  chain forward {
    type filter hook forward priority -10;
    tcp flags syn tcp option maxseg size set rt mtu
  }
  chain output {
    type filter hook output priority -10;
    icmp type destination-unreachable drop
  }
}
`,
  );
  await router.execOrThrow(["nft", "-f", "/root/narrow.nft"]);
  for (const link of ["wan", "lan"]) await router.execOrThrow(["ip", "link", "set", link, "mtu", String(bytes)]);
}

async function passesFull(host: LabHost): Promise<boolean> {
  return (await host.exec(FULL_PING)).code === 0;
}

for (const { bytes, kind } of [
  { bytes: 1_400, kind: "direct" },
  { bytes: 1_280, kind: "wss" },
] as const) {
  test(
    `a client whose path takes ${bytes} bytes is on ${kind}, and ten megabytes come whole`,
    async () => {
      await narrow(bytes);
      await higgsOrThrow(laptop, "client", "up");
      await untilPath(laptop, kind, 30_000);
      await untilPath(tablet, "direct", 30_000);
      const [narrowBytes, goodBytes] = await Promise.all([
        transfer(laptop, BYTES, 20_000_000),
        transfer(tablet, BYTES, 20_000_000),
      ]);
      expect([narrowBytes, goodBytes]).toEqual([BYTES, BYTES]);
      expect(await until(() => passesFull(tablet))).toBe(true);
      // A byte stream takes any size.
      if (kind === "wss") await until(() => passesFull(laptop), { what: "a full packet by the WebSocket" });
      else expect(await passesFull(laptop)).toBe(false);
      const routes = await lab.host("home-pc").execOrThrow(["ip", "-4", "route", "show", "dev", "higgsn0"]);
      expect([...routes.matchAll(/mtu (\d+)/g)].map((match) => match[1])).toEqual(kind === "direct" ? ["1328"] : []);
      console.log(`${bytes} bytes: ${kind}, routes of the home PC: ${routes.trim().replaceAll("\n", "; ")}`);
      await higgsOrThrow(laptop, "client", "down");
    },
    MINUTE,
  );
}
