// Node and client as their services' own user with CAP_NET_ADMIN alone: a part of what `npm run lab-user` runs whole.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { higgsOrThrow, killNow, pidOf, startNetwork, wireGuardPids } from "./client-lab.ts";
import { daemonRole } from "./daemon-user.ts";
import { snapshot } from "./harness.ts";
import { probesTo, securityStates } from "./state-probes.ts";
import { differences, furnish, startStateLab, verdictsNow, verdictsOf } from "./state-scene.ts";

process.env["HIGGS_LAB_USER"] = "1";

const MINUTE = 60_000;
/** capability.h, bit 12. */
const NET_ADMIN = "0000000000001000";

test("daemonRole() knows what starts a daemon from what people type beside one", () => {
  const roles = ["client run --lan", "client", "client up", "node --join X", "node", "client status", "node down"].map(
    (words) => daemonRole(["/usr/local/bin/higgs", ...words.split(" ")]),
  );
  expect(roles).toEqual(["client", "client", "client", "node", "node", null, null]);
});

describe("as the user higgs", () => {
  let lab: Lab;
  let laptop: LabHost;
  let before: string;

  beforeAll(async () => {
    lab = await startStateLab();
    laptop = lab.host("laptop");
    await startNetwork(lab);
    await furnish(lab);
    await higgsOrThrow(laptop, "client", "up");
    await higgsOrThrow(laptop, "client", "down");
    await laptop.execOrThrow(["chmod", "600", "/etc/resolv.conf"]); // only the helper may read it
    before = await snapshot(laptop);
  }, MINUTE);
  afterAll(async () => {
    await lab?.[Symbol.asyncDispose]();
  });

  async function expectLeast(host: LabHost, pid: number): Promise<void> {
    const status = await host.readFile(`/proc/${pid}/status`);
    const uid = (await host.execOrThrow(["id", "-u", "higgs"])).trim();
    expect(/^Uid:\s+(.+)$/m.exec(status)?.[1]?.split("\t")).toEqual([uid, uid, uid, uid]);
    for (const set of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"])
      expect(status).toContain(`${set}:\t${NET_ADMIN}`);
    expect(status).toContain("NoNewPrivs:\t1");
  }

  async function expectRow(situation: string): Promise<void> {
    const row = securityStates().rows.find((one) => one.situation === situation);
    if (row === undefined) throw new Error(`docs/security-states.md has no "${situation}".`);
    expect(differences(row, await verdictsNow(lab))).toEqual([]);
  }

  test(
    "a client and its WireGuard, and a node's, have CAP_NET_ADMIN and nothing else, and names go by the helper",
    async () => {
      await higgsOrThrow(laptop, "client", "up");
      for (const [name, role, device] of [
        ["laptop", "client", "higgs0"],
        ["home-pc", "node", "higgsn0"],
      ] as const) {
        const host = lab.host(name);
        await expectLeast(host, await pidOf(host, role));
        for (const pid of await wireGuardPids(host, device)) await expectLeast(host, pid);
      }
      expect(await laptop.readFile("/etc/resolv.conf")).toContain("Written by higgs");
      const list = await higgsOrThrow(laptop, "state", "list");
      expect(list).toContain("/etc/resolv.conf");
      expect(list).not.toContain("not in the journal");
    },
    MINUTE,
  );

  test(
    "a node as that user keeps its home closed, and leads to the internet",
    async () => {
      const [nas, web] = [probesTo("192.168.1.20"), probesTo("203.0.113.80")];
      const verdicts = await verdictsOf(lab, [...nas, ...web]);
      expect(nas.map((probe) => verdicts.get(probe))).toEqual(nas.map(() => "closed"));
      expect(web.map((probe) => verdicts.get(probe))).toEqual(web.map(() => "tunnel"));
    },
    MINUTE,
  );

  test(
    "nothing passes beside the tunnel, connected and killed, and everything is put back",
    async () => {
      await expectRow("connected");
      await killNow(laptop, await pidOf(laptop, "client"), ...(await wireGuardPids(laptop, "higgs0")));
      await expectRow("died");
      await higgsOrThrow(laptop, "client", "up");
      await higgsOrThrow(laptop, "client", "down");
      expect(await snapshot(laptop)).toBe(before);
      await expectRow("disconnected"); // and so the check sees what leaves
    },
    MINUTE,
  );
});
