// Nobody uses the tunnel for a while, behind routers that forget soon: then the first packet from outside still arrives, at once and directly.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { smallInternet } from "../../src/lab/small-internet.ts";
import { higgs, higgsOrThrow, HOME4, startClientLab, startNetwork } from "./client-lab.ts";
import { until } from "./harness.ts";

/** Longer than traffic keeps the checks frequent (45 s), and than the café's router remembers. `npm run nat-idle` takes five minutes. */
const IDLE_S = Number(process.env["HIGGS_IDLE_S"] ?? 58);
const [LAPTOP, HOME, CAFE4, WEB] = ["192.168.7.2", "192.168.1.10", "203.0.113.66", "203.0.113.80"] as const;
const LIMIT_MS = (IDLE_S + 150) * 1000;

let lab: Lab;
let laptop: LabHost;
let home: LabHost;

beforeAll(async () => {
  lab = await startClientLab(smallInternet({ homeIpv6: false, cafeIpv6: false }));
  [laptop, home] = [lab.host("laptop"), lab.host("home-pc")];
  await forgetAfter("cafe-router", { once: 3, stream: 6 });
  await forgetAfter("home-router", { once: 20, stream: 30 });
}, 60_000);
afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
}, 60_000);

/** What a router keeps of UDP that was not answered, or just once, and of a conversation. */
async function forgetAfter(name: string, seconds: { readonly once: number; readonly stream: number }): Promise<void> {
  const { once, stream } = seconds;
  const of = (what: string, value: number): string => `net.netfilter.nf_conntrack_udp_${what}=${value}`;
  const values = [of("timeout", once), of("timeout_stream", stream)];
  await lab.host(name).execOrThrow(["sysctl", "-q", "-w", ...values]);
}

/** What a router holds of UDP that a host of its LAN sends there. */
async function entries(router: string, from: string, to: string): Promise<number> {
  const argv = ["conntrack", "-L", "-p", "udp", "--orig-src", from, "--orig-dst", to];
  return (await lab.host(router).exec(argv)).stdout.split("\n").filter((line) => line.startsWith("udp")).length;
}

interface Path {
  readonly kind: string;
  readonly since: string;
}

async function path(): Promise<Path> {
  const { stdout } = await higgs(laptop, "client", "status", "--json");
  const { kind, since } = (JSON.parse(stdout) as { path: Path | null }).path ?? { kind: "none", since: "" };
  return { kind, since };
}

async function lifeOf(host: LabHost): Promise<number | null> {
  return (JSON.parse(await higgsOrThrow(host, "netcheck", "--json")) as { mappingLifeS: number | null }).mappingLifeS;
}

describe("an idle tunnel behind routers that forget", () => {
  test("control: the café's router forgets what nobody uses", async () => {
    await laptop.execOrThrow(["bash", "-c", "echo hello > /dev/udp/203.0.113.80/9"]);
    await until(async () => (await entries("cafe-router", LAPTOP, WEB)) === 1, { what: "an entry of the router" });
    await until(async () => (await entries("cafe-router", LAPTOP, WEB)) === 0, { what: "a router that has forgotten" });
  }, 90_000);

  test(
    "stays direct, by as many packets as its router asks for, and the first packet from either end arrives",
    async () => {
      await startNetwork(lab);
      await higgsOrThrow(laptop, "client", "up");
      await until(async () => (await path()).kind === "direct", { what: "a direct path" });
      const before = await path();
      const idleFrom = performance.now();
      // The node has asked since it started, and its laptop since it came.
      await until(async () => (await lifeOf(home)) === 19 && (await lifeOf(laptop)) === 2.5, {
        timeoutMs: 45_000,
        everyMs: 1_000,
        what: "what both ends know of their routers",
      });
      let looks = 0;
      while (performance.now() < idleFrom + IDLE_S * 1000) {
        expect(await entries("cafe-router", LAPTOP, HOME4)).toBe(1);
        expect(await entries("home-router", HOME, CAFE4)).toBe(1);
        looks++;
        await Bun.sleep(1_000);
      }
      expect(await path()).toEqual(before);
      const address = (await laptop.execOrThrow(["ip", "-4", "-o", "address", "show", "higgs0"])).match(
        /10\.\S+(?=\/32)/,
      )?.[0];
      const inward = await home.exec(["ping", "-n", "-c", "1", "-W", "5", address ?? ""]);
      const outward = await laptop.exec(["ping", "-n", "-c", "1", "-W", "5", "203.0.113.80"]);
      expect([inward.code, outward.code]).toEqual([0, 0]);
      expect(await path()).toEqual(before);
      console.log(
        `idle for ${Math.round((performance.now() - idleFrom) / 1000)} s: the routers remembered at ${looks} looks, and first packets arrived from both ends, 2 of 2`,
      );
    },
    LIMIT_MS,
  );
});
