// Every row of docs/security-states.md with the real client: what leaves a laptop in each situation, and that the check sees what leaks.
import { afterAll, beforeAll, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { LAN_ALWAYS } from "../../src/net/local-networks.ts";
import { higgs, higgsOrThrow, killNow, pidOf, startNetwork, wireGuardPids } from "./client-lab.ts";
import { snapshot } from "./harness.ts";
import { leaveOnly, loadPolicy, type Mechanism, takeClientRules, untilRules } from "./mechanisms.ts";
import { cidr } from "./net-hosts.ts";
import { type Row, securityStates } from "./state-probes.ts";
import { differences, furnish, startStateLab, verdictsNow } from "./state-scene.ts";

const MINUTE = 60_000;
const EXIT_BLOCKED = 10;
const document = securityStates();

/** The same tests for each mechanism of the client's firewall, in a lab of their own. */
export function testClientStates(mechanism: Mechanism): void {
  let lab: Lab;
  let laptop: LabHost;
  let before: string;

  beforeAll(async () => {
    lab = await startStateLab();
    laptop = lab.host("laptop");
    await startNetwork(lab);
    await furnish(lab);
    await leaveOnly(laptop, mechanism);
    // Once up and down, so that every file of the role's own is there: they stay.
    await client("lockdown", "off");
    await client("up");
    await client("down");
    before = await snapshot(laptop);
  }, MINUTE);

  afterAll(async () => {
    await lab[Symbol.asyncDispose]();
  }, MINUTE);

  const client = (...args: readonly string[]): Promise<string> => higgsOrThrow(laptop, "client", ...args);

  /** The policy itself, for a situation that lasts for milliseconds. */
  async function load(lan: boolean): Promise<void> {
    const near = { bridges: ["docker0"], lan: lan ? [cidr("192.168.7.0/24"), cidr("fd66::/64"), ...LAN_ALWAYS] : null };
    await loadPolicy(laptop, mechanism, { kind: "disconnecting", near });
  }

  const withoutServer = async (): Promise<void> => {
    const vps = lab.host("vps");
    await killNow(vps, await pidOf(vps, "server"));
  };
  const waitsInVain = async (): Promise<void> => {
    expect((await higgs(laptop, "client", "up", "--timeout", "5s")).code).not.toBe(0);
  };

  /** How a person, or fate, gets from each row to the next, in the document's order. */
  const ENTER: Readonly<Record<string, () => Promise<unknown>>> = {
    disconnected: async () => undefined,
    connected: () => client("up"),
    "connected, LAN": () => client("up", "--lan"),
    "connected, lockdown, LAN": () => client("lockdown", "on"),
    "connected, lockdown": () => client("lockdown", "on", "--no-lan"),
    "without an exit, lockdown": async () => {
      await client("exit", "use", "none");
      await client("wait");
    },
    "without an exit": async () => {
      await client("lockdown", "off");
      await untilRules(laptop, mechanism, "marks");
    },
    died: async () => {
      await client("up", "--exit", "auto");
      await killNow(laptop, await pidOf(laptop, "client"), ...(await wireGuardPids(laptop, "higgs0")));
    },
    blocked: async () => {
      await higgsOrThrow(laptop, "state", "clean", "--role", "client");
      await client("lockdown", "on");
    },
    "blocked, LAN": () => client("lockdown", "on", "--lan"),
    "connecting, lockdown, LAN": async () => {
      await withoutServer();
      await waitsInVain();
    },
    "connecting, lockdown": () => client("lockdown", "on", "--no-lan"),
    connecting: () => client("lockdown", "off"),
    disconnecting: async () => {
      await client("down");
      expect(await snapshot(laptop)).toBe(before);
      await load(false);
    },
    "disconnecting, LAN": () => load(true),
  };

  test("the document and this test know the same situations", () => {
    expect(document.rows.map((row) => row.situation)).toEqual(Object.keys(ENTER));
  });

  for (const row of document.rows) {
    test(
      `${row.situation}: ${summary(row)}`,
      async () => {
        await ENTER[row.situation]?.();
        expect(differences(row, await verdictsNow(lab))).toEqual([]);
        if (!/lockdown|blocked/.test(row.situation)) return;
        const status = await higgs(laptop, "client", "status");
        expect(status.stdout).toContain("kill switch on");
        if (row.situation.startsWith("connected") || row.situation.startsWith("without")) return;
        // Plainly why, and how to get the internet back.
        expect(status.code).toBe(EXIT_BLOCKED);
        expect(status.stdout).toContain("No internet: the kill switch is on");
        expect(status.stdout).toContain("sudo higgs client lockdown off");
      },
      MINUTE,
    );
  }

  test(
    "canary: with the rules taken out the same check finds every closed class open",
    async () => {
      const row = document.rows.find(({ situation }) => situation === "blocked") as Row;
      await takeClientRules(laptop, mechanism);
      const leaks = differences(row, await verdictsNow(lab));
      const leaking = new Set(leaks.map((leak) => leak.slice(0, leak.indexOf(":"))));
      const closed = [...row.cells].filter(([, verdict]) => verdict === "closed").map(([name]) => name);
      expect([...leaking].sort()).toEqual(closed.sort());
      // Not one of their packets but all: each protocol and family is seen.
      expect(leaks.every((leak) => leak.includes(" is open"))).toBe(true);
    },
    MINUTE,
  );
}

function summary({ cells }: Row): string {
  const of = (verdict: string): string =>
    [...cells]
      .filter(([, one]) => one === verdict)
      .map(([name]) => name)
      .join(", ") || "nothing";
  return `open ${of("open")}; by the tunnel ${of("tunnel")}`;
}
