// `higgs client lockdown off` opens the machine whatever is broken: the client, its journal, its disk, or the firewall's own tool.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import {
  higgs,
  higgsOrThrow,
  killNow,
  pidOf,
  startNetwork,
  startServer,
  untilBrowses,
  wireGuardPids,
} from "./client-lab.ts";
import { snapshot } from "./harness.ts";
import { probesTo } from "./state-probes.ts";
import { startStateLab, verdictsOf } from "./state-scene.ts";

const MINUTE = 60_000;
/** Of a test, on a machine that has other work. */
const LIMIT_MS = 2 * MINUTE;
const WEB = "203.0.113.80";
const EXIT_TIMED_OUT = 8;
let lab: Lab;
let laptop: LabHost;
let before: string;

beforeAll(async () => {
  lab = await startStateLab();
  laptop = lab.host("laptop");
  await startNetwork(lab);
  // Once up and down, so that every file of the role's own is there: they stay.
  await client("up", "--lockdown");
  await client("down");
  await client("lockdown", "off");
  before = await snapshot(laptop);
}, MINUTE);
afterAll(async () => {
  await lab[Symbol.asyncDispose]();
}, MINUTE);

const client = (...args: readonly string[]): Promise<string> => higgsOrThrow(laptop, "client", ...args);

async function waysNow(): Promise<readonly string[]> {
  return [...new Set((await verdictsOf(lab, probesTo(WEB))).values())];
}

describe("lockdown off opens the machine", () => {
  const STATE = "/var/lib/higgs/client";
  const readOnly = `mount --bind ${STATE} ${STATE} && mount -o remount,ro,bind ${STATE}`;
  const sh = (script: string): Promise<string> => laptop.execOrThrow(["sh", "-ec", script]);
  const connectedAndClosed = async (): Promise<void> => {
    await client("up", "--lockdown");
    await untilBrowses(laptop);
  };
  /** What only the journal knew. */
  const FORGOTTEN = { without: ["sysctls", "etc and run"] };

  test(
    "when the client hangs, which is ended then; and closing says what to type",
    async () => {
      await connectedAndClosed();
      await laptop.execOrThrow(["kill", "-STOP", String(await pidOf(laptop, "client"))]);
      const asked = await Promise.all([
        higgs(laptop, "client", "lockdown", "on"),
        higgs(laptop, "client", "status"),
        higgs(laptop, "why", "home-pc"),
      ]);
      for (const { stderr, code } of asked) {
        expect(stderr).toContain("sudo kill -9");
        expect(code).toBe(EXIT_TIMED_OUT);
      }
      expect(await client("lockdown", "off")).toContain("which hung");
      expect(await waysNow()).toEqual(["open"]);
      expect(await snapshot(laptop)).toBe(before);
    },
    LIMIT_MS,
  );

  test(
    "with a damaged journal",
    async () => {
      const clean = await snapshot(laptop, FORGOTTEN);
      await connectedAndClosed();
      await killNow(laptop, await pidOf(laptop, "client"));
      await laptop.writeFile(`${STATE}/journal.json`, '{"version":1,"und');
      expect(await client("lockdown", "off")).toContain("Kill switch off");
      expect(await waysNow()).toEqual(["open"]);
      expect(await snapshot(laptop, FORGOTTEN)).toBe(clean);
      await sh(
        `rm ${STATE}/journal.json.corrupt-1; sysctl -qw net.ipv4.conf.all.src_valid_mark=0 net.ipv4.conf.all.arp_ignore=0`,
      );
      expect(await snapshot(laptop)).toBe(before);
    },
    LIMIT_MS,
  );

  const STATES: Readonly<Record<string, () => Promise<unknown>>> = {
    "without a client": () => client("lockdown", "on"),
    "with a client that died": async () => {
      await connectedAndClosed();
      await killNow(laptop, await pidOf(laptop, "client"), ...(await wireGuardPids(laptop, "higgs0")));
    },
    "with a client that does not connect": async () => {
      await killNow(lab.host("vps"), await pidOf(lab.host("vps"), "server"));
      expect((await higgs(laptop, "client", "up", "--lockdown", "--timeout", "5s")).code).not.toBe(0);
    },
  };
  for (const what of ["without a client", "with a client that does not connect"]) {
    test(
      `with a state folder that cannot be written, ${what}, and says that it is not for good`,
      async () => {
        await STATES[what]?.();
        expect(await waysNow()).toEqual(["closed"]);
        await sh(readOnly);
        try {
          const off = await higgs(laptop, "client", "lockdown", "off");
          expect(off.stderr).toContain("not for good");
          expect(off.code).toBe(1);
          expect(await waysNow()).toEqual(["open"]);
        } finally {
          await sh(`umount ${STATE}`);
        }
        await putAllBack();
      },
      LIMIT_MS,
    );
  }

  for (const what of ["with a client that died", "with a client that does not connect"]) {
    test(
      `without nft, ${what}`,
      async () => {
        await STATES[what]?.();
        expect(await waysNow()).toEqual(["closed"]);
        await sh("mount --bind /dev/null /usr/sbin/nft");
        try {
          expect(await client("lockdown", "off")).toContain("Kill switch off");
          expect(await waysNow()).toEqual(["open"]);
        } finally {
          await sh("umount /usr/sbin/nft");
        }
        expect((await laptop.exec(["nft", "list", "table", "inet", "higgs_client"])).code).not.toBe(0);
        await putAllBack();
      },
      LIMIT_MS,
    );
  }

  /** As it was before each: disconnected, and with a server. */
  async function putAllBack(): Promise<void> {
    await client("lockdown", "off");
    await higgs(laptop, "client", "down");
    await higgs(laptop, "state", "clean", "--role", "client");
    expect(await snapshot(laptop)).toBe(before);
    if ((await lab.host("vps").exec(["pgrep", "-f", "higgs server"])).code !== 0) await startServer(lab);
  }
});
