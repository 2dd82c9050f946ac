// A laptop with both families, one without IPv6 and one without IPv4 reach the same home directly, by IPv6 wherever both have it.
import { afterAll, beforeAll, expect, test } from "bun:test";
import type { Lab } from "../../src/lab/lab.ts";
import { cafeHost, internetHost, smallInternet } from "../../src/lab/small-internet.ts";
import {
  higgs,
  higgsOrThrow,
  invite,
  invitesOf,
  page,
  PAGE4,
  startClientLab,
  startNode,
  startServer,
} from "./client-lab.ts";
import { until } from "./harness.ts";

const MINUTE = 60_000;
const SIX = "2001:db8:90::90";

interface Path {
  readonly kind: string;
  readonly endpoint: string;
  readonly since: string;
  readonly rttMs: number;
}

let lab: Lab;
beforeAll(async () => {
  const onlySix = internetHost("phone", 90, {
    interfaces: [{ name: "eth0", segment: "internet", ipv6: [`${SIX}/64`] }],
    routes: [{ to: "default6", via: "2001:db8:90::1" }],
    nameservers: ["2001:db8:53::53"],
  });
  lab = await startClientLab(smallInternet({ extraHosts: [cafeHost("tablet", 3, { ipv6: false }), onlySix] }));
  const invites = await invitesOf(await startServer(lab));
  await startNode(lab, "--join", invites.node);
}, MINUTE);
afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
}, MINUTE);

for (const [name, families, endpoint] of [
  ["laptop", "both families", /^\[2001:db8:7:1::10\]:\d+$/],
  ["tablet", "IPv4 alone", /^203\.0\.113\.7:\d+$/],
  ["phone", "IPv6 alone", /^\[2001:db8:7:1::10\]:\d+$/],
] as const) {
  test(
    `a machine with ${families} goes directly, and through the exit to IPv4`,
    async () => {
      const host = lab.host(name);
      await higgsOrThrow(host, "client", "up", "--join", await invite(lab, "client"));
      await higgsOrThrow(host, "client", "wait", "--for", "direct");
      // The first that answers carries packets until there is a better one; one that a busy machine measured badly is measured again later.
      const status = await until(
        async () => {
          const seen = JSON.parse((await higgs(host, "client", "status", "--json")).stdout) as { path: Path };
          return seen.path.kind === "direct" && endpoint.test(seen.path.endpoint) ? seen : null;
        },
        { timeoutMs: 100_000, what: `a direct path by ${endpoint.source}` },
      );
      expect(Date.parse(status.path.since)).toBeGreaterThan(0);
      expect(status.path.rttMs).toBeGreaterThan(0);
      expect(await page(host, PAGE4)).toBe("203.0.113.7");
      await higgsOrThrow(host, "client", "down");
    },
    3 * MINUTE,
  );
}
