// The next version takes over under a running session, machine by machine, and gives way again; where its database is newer, the old one refuses.
import { copyFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import { HIGGS, higgs, higgsOrThrow, killNow, pidOf, startServer } from "./client-lab.ts";
import { untilPath } from "./cables.ts";
import { higgsBinary, until } from "./harness.ts";
import { buildNextVersion, type NextVersion } from "./next-version.ts";
import { killAndStart, pingAcross, type Running, serverOutage, startOn } from "./outages.ts";

const MINUTE = 60_000;
const TENTH_S = 0.1;
const MOST_GAP_S = 5;
const DATABASE = "/var/lib/higgs/server/higgs.db";

describe("an upgrade under a session", () => {
  let running: Running;
  let plain: NextVersion;
  let migrating: NextVersion;
  let now = "";
  const host = (name: string): LabHost => running.lab.host(name);

  beforeAll(async () => {
    plain = await buildNextVersion({ version: "7.0.1", hasMigration: false });
    migrating = await buildNextVersion({ version: "7.1.0", hasMigration: true });
    running = await startOn("direct");
    now = await versionOf(host("vps"));
  }, 2 * MINUTE);
  afterAll(async () => {
    await running?.lab[Symbol.asyncDispose]();
    plain?.[Symbol.dispose]();
    migrating?.[Symbol.dispose]();
  });

  async function versionOf(one: LabHost): Promise<string> {
    return /\d+\.\d+\.\d+\S*/.exec(await higgsOrThrow(one, "version"))?.[0] ?? "";
  }

  /** As a package or a person does it: the new file gets the name, while the old one runs. */
  async function put(one: LabHost, path: string): Promise<void> {
    copyFileSync(path, `/proc/${one.pid}/root${HIGGS}.new`);
    await one.execOrThrow(["sh", "-c", `chmod 755 ${HIGGS}.new && mv ${HIGGS}.new ${HIGGS}`]);
  }

  /** What a service's restart is: the process ends without undoing anything, and the next one takes over. */
  async function changeAll(path: string, version: string): Promise<void> {
    for (const [name, restart] of [
      ["vps", () => serverOutage(running, 0).then(() => undefined)],
      ["home-pc", () => killAndStart(running, "node")],
      ["laptop", () => killAndStart(running, "client")],
    ] as const) {
      await put(host(name), path);
      const { gapS, lost } = await pingAcross(running, restart, TENTH_S);
      console.log(`${name} at ${version}: longest gap ${gapS.toFixed(2)} s, ${lost} lost`);
      expect(gapS).toBeLessThan(MOST_GAP_S);
      expect(await versionOf(host(name))).toBe(version);
    }
    await untilPath(running.laptop, "direct", 30_000);
    const told = async (): Promise<readonly string[]> => {
      const { machines } = JSON.parse(await higgsOrThrow(host("vps"), "server", "machines", "--json")) as {
        machines: { version: string; online: boolean }[];
      };
      return machines.map((one) => `${one.version} ${one.online}`);
    };
    await until(async () => (await told()).join() === [version, version].map((one) => `${one} true`).join(), {
      what: `both machines at ${version}`,
    });
  }

  test(
    "to the next version and back, each machine in turn: traffic goes on",
    async () => {
      await changeAll(plain.path, plain.version);
      await changeAll(higgsBinary(), now);
    },
    4 * MINUTE,
  );

  test(
    "to a version with another schema: the old one then refuses, touches nothing, and runs again on the copy of before",
    async () => {
      const vps = host("vps");
      await higgsOrThrow(vps, "server", "backup", "/root/before.db");
      await put(vps, migrating.path);
      const { gapS } = await pingAcross(running, () => serverOutage(running, 0).then(() => undefined), TENTH_S);
      expect(gapS).toBeLessThan(MOST_GAP_S);
      expect(await versionOf(vps)).toBe(migrating.version);

      const back = await pingAcross(
        running,
        async () => {
          await put(vps, higgsBinary());
          await killNow(vps, await pidOf(vps, "server"));
          const sum = await vps.execOrThrow(["sha256sum", DATABASE]);
          const { code, stdout, stderr } = await higgs(vps, "server");
          expect([code, stdout]).toEqual([1, ""]);
          expect(stderr).toMatch(
            /Cannot use the database ".+": its schema is version \d+, this program knows versions up to/,
          );
          expect(stderr).toContain("Start the newer higgs that wrote it, or put back a backup");
          expect(await vps.execOrThrow(["sha256sum", DATABASE])).toBe(sum);
          // Both ways that the refusal names: the newer one starts, and the older one does on what was kept.
          await put(vps, migrating.path);
          await (await startServer(running.lab))[Symbol.asyncDispose]();
          await put(vps, higgsBinary());
          await higgsOrThrow(vps, "server", "restore", "/root/before.db");
          await startServer(running.lab);
        },
        TENTH_S,
      );
      console.log(`server refused, newer, restored: longest gap ${back.gapS.toFixed(2)} s, ${back.lost} lost`);
      expect(back.gapS).toBeLessThan(MOST_GAP_S);
      await until(async () => (await higgsOrThrow(vps, "server", "status")).includes("2 online of 2"), {
        timeoutMs: 20_000,
        what: "both machines at the restored server",
      });
    },
    4 * MINUTE,
  );
});
