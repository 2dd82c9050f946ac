// A kill switch by one mechanism of the firewall, when another has come or gone since; and rules that somebody puts before ours.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { higgs, higgsOrThrow, startNetwork, untilBrowses } from "./client-lab.ts";
import { snapshot, until } from "./harness.ts";
import { giveBack, leaveOnly, type Mechanism, rulesOf } from "./mechanisms.ts";
import { probesTo } from "./state-probes.ts";
import { startStateLab, verdictsOf } from "./state-scene.ts";

const MINUTE = 60_000;
const WEB = ["203.0.113.80", "2001:db8:80::80"] as const;
const OURS = /higgs[-_]client/;
let lab: Lab;
let laptop: LabHost;
let before: string;

beforeAll(async () => {
  lab = await startStateLab();
  laptop = lab.host("laptop");
  await startNetwork(lab);
  // Each once, so that files of the role's own and the kernel's empty tables are there: they stay.
  for (const mechanism of ["nft", "iptables-legacy"] as const) {
    await leaveOnly(laptop, mechanism);
    await client("up", "--lockdown");
    await client("down");
    await client("lockdown", "off");
    await giveBack(laptop);
  }
  before = await snapshot(laptop);
}, MINUTE);
afterAll(async () => {
  await lab[Symbol.asyncDispose]();
}, MINUTE);

const client = (...args: readonly string[]): Promise<string> => higgsOrThrow(laptop, "client", ...args);

async function waysNow(): Promise<readonly string[]> {
  return [
    ...new Set(
      (
        await verdictsOf(
          lab,
          WEB.flatMap((to) => probesTo(to)),
        )
      ).values(),
    ),
  ];
}

/** Which mechanisms have rules of ours, all of them asked. */
async function inForce(): Promise<readonly Mechanism[]> {
  const found: Mechanism[] = [];
  for (const mechanism of ["nft", "iptables-nft", "iptables-legacy"] as const) {
    if (OURS.test(await rulesOf(laptop, mechanism))) found.push(mechanism);
  }
  return found;
}

describe("a kill switch by one mechanism", () => {
  for (const [first, then] of [
    ["iptables-legacy", "nft"],
    ["nft", "iptables-legacy"],
  ] as const) {
    test(
      `${first} is known and lifted by ${then}, and is not in force beside it`,
      async () => {
        await leaveOnly(laptop, first);
        await client("lockdown", "on");
        await giveBack(laptop);
        expect(await inForce()).toEqual([first]);
        expect(await waysNow()).toEqual(["closed"]);
        await leaveOnly(laptop, then);
        if (first !== "nft") {
          // Nobody can list what nft loaded where nft is gone.
          const status = (await higgs(laptop, "client", "status")).stdout;
          expect(status).toContain("kill switch on");
          expect(status).not.toContain("its rules are not loaded");
        }
        await client("lockdown", "on", "--lan");
        await giveBack(laptop);
        expect(await inForce()).toEqual([then]);
        expect(await waysNow()).toEqual(["closed"]);
        await leaveOnly(laptop, first);
        await client("lockdown", "off");
        await giveBack(laptop);
        expect(await inForce()).toEqual([]);
        expect(await waysNow()).toEqual(["open"]);
        await client("lockdown", "on", "--no-lan"); // or the LAN would be remembered
        await client("lockdown", "off");
        expect(await snapshot(laptop)).toBe(before);
      },
      MINUTE,
    );
  }
});

describe("where iptables alone is there", () => {
  test(
    "raw frames cannot be stopped: --paranoid is refused with the reason, and nothing is closed",
    async () => {
      await leaveOnly(laptop, "iptables-legacy");
      const refused = await higgs(laptop, "client", "lockdown", "on", "--paranoid");
      expect([refused.code, refused.stderr.includes("Cannot stop raw frames")]).toEqual([9, true]);
      expect(await client("lockdown", "status")).toContain("off");
      await giveBack(laptop);
      expect(await snapshot(laptop)).toBe(before);
    },
    MINUTE,
  );

  test(
    "a rule that somebody puts before ours opens nothing for long, state list shows ours, and panic takes them away",
    async () => {
      await leaveOnly(laptop, "iptables-legacy");
      await client("up", "--lockdown");
      await untilBrowses(laptop);
      expect(await higgsOrThrow(laptop, "state", "list")).toContain("ip6tables chains higgs-client-* of filter");
      for (const command of ["iptables-legacy", "ip6tables-legacy"]) {
        await laptop.execOrThrow([command, "-I", "OUTPUT", "1", "-j", "ACCEPT"]);
        await until(
          async () => (await laptop.execOrThrow([command, "-S", "OUTPUT", "1"])).includes("higgs-client-out"),
          {
            what: `our rule as the first of ${command}`,
          },
        );
        await laptop.execOrThrow([command, "-D", "OUTPUT", "-j", "ACCEPT"]); // somebody's, and left alone
      }
      expect(await higgsOrThrow(laptop, "panic")).toContain("higgs-client-");
      expect(await waysNow()).toEqual(["open"]);
      await giveBack(laptop);
      expect(await inForce()).toEqual([]);
    },
    MINUTE,
  );
});
