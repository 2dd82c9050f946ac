// The server's database cut, flipped, without its log, unreadable and on a full disk: it serves all machines or refuses in words, and a backup mends it.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { higgs, higgsOrThrow, killNow, pidOf, startServer } from "./client-lab.ts";
import { untilOnline } from "./herd.ts";
import {
  COPY,
  cutShort,
  DATABASE,
  type DamageScene,
  flipBits,
  isClear,
  machinesAt,
  outcomeOf,
  putBack,
  startDamageScene,
  STATE,
  tally,
} from "./server-damage.ts";

const MINUTE = 60_000;
/** `npm run damage` says more. */
const RUNS = Number(process.env["HIGGS_DAMAGE_RUNS"] ?? 10);
const SEED = Number(process.env["HIGGS_SEED"] ?? Date.now() % 1_000_000);

describe("a server whose database was damaged", () => {
  let scene: DamageScene;
  const end = async () => killNow(scene.vps, await pidOf(scene.vps, "server"));

  beforeAll(async () => {
    scene = await startDamageScene();
    console.log(`seed ${SEED}; HIGGS_SEED=${SEED} makes the same damage again`);
  }, MINUTE);
  afterAll(async () => {
    await scene?.[Symbol.asyncDispose]();
  });

  for (const [name, least, damage] of [
    ["a hundred flipped bits", 1, (seed: number) => flipBits(scene, { seed, count: 100 })],
    ["three flipped bits", 0, (seed: number) => flipBits(scene, { seed, count: 3 })],
    ["a cut", RUNS, (seed: number) => cutShort(scene, seed)],
  ] as const) {
    test(
      `${name}, ${RUNS} times: serves every machine, or says what is wrong and touches nothing`,
      async () => {
        const { runs, refused, served, bad } = await tally(scene, { runs: RUNS, seed: SEED, damage });
        console.log(`${name}: ${refused} of ${runs} refused, ${served} served`);
        expect(bad).toEqual([]);
        expect(runs).toBe(RUNS);
        expect(refused).toBeGreaterThanOrEqual(least);
      },
      10 * MINUTE,
    );
  }

  test("a log that was deleted after a kill takes no machine with it", async () => {
    for (const gone of ["-wal", "-shm", "-*"]) {
      await putBack(scene);
      await scene.vps.execOrThrow(["sh", "-c", `rm -f ${DATABASE}${gone}`]);
      expect([gone, await outcomeOf(scene)]).toEqual([gone, { kind: "serves", machines: scene.machines }]);
    }
  });

  test("a database that it may not read is named, with what to look at", async () => {
    await putBack(scene);
    const asOther = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    await scene.vps.execOrThrow(["sh", "-c", `chown -R 65534:65534 ${STATE} && chmod 000 ${DATABASE}`]);
    const args = ["server", "--run", "/tmp/run", "--listen", "[::]:8443", "--stun-port", "13478"];
    const { code, stdout, stderr } = await scene.vps.exec([...asOther, "/usr/local/bin/higgs", ...args]);
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toContain(`Cannot open the database "${DATABASE}": it cannot be read.`);
    expect(stderr).toContain("ls -l");
    await scene.vps.execOrThrow(["chown", "-R", "0:0", STATE]);
  });

  test(
    "on a full disk it goes on, says so to whoever wants to change something, and loses nothing",
    async () => {
      const { vps } = scene;
      await vps.execOrThrow(["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", STATE]);
      await putBack(scene);
      await startServer(scene.lab);
      await untilOnline(scene.lab, scene.herd);
      expect((await higgs(vps, "server", "invite", "node")).code).toBe(0); // the control: there is room
      await vps.exec(["sh", "-c", `cat /dev/zero > ${STATE}/filler`]);
      const refused = await higgs(vps, "server", "invite", "node");
      expect([refused.code, refused.stdout]).toEqual([1, ""]);
      expect(refused.stderr).toContain("the disk is full");
      expect(await machinesAt(vps)).toBe(scene.machines);
      await untilOnline(scene.lab, scene.herd);
      await end();
      const outcome = await outcomeOf(scene);
      console.log(`started on a full disk: ${outcome.kind}`);
      if (outcome.kind === "serves") expect(outcome.machines).toBe(scene.machines);
      else expect([isClear(outcome), outcome.said.includes("the disk is full")]).toEqual([true, true]);
      await vps.execOrThrow(["rm", `${STATE}/filler`]);
      await startServer(scene.lab);
      expect(await machinesAt(vps)).toBe(scene.machines);
      expect((await higgs(vps, "server", "invite", "node")).code).toBe(0);
      await end();
      await vps.execOrThrow(["umount", STATE]);
    },
    MINUTE,
  );

  test(
    "is mended by the command that it names, with a copy that it had made, and its machines are back by themselves",
    async () => {
      const { vps } = scene;
      await putBack(scene);
      flipBits(scene, { seed: SEED, count: 100 });
      const outcome = await outcomeOf(scene);
      const said = outcome.kind === "refused" ? outcome.said : "";
      expect(said).toContain("higgs server restore FILE");
      const garbage = await higgs(vps, "server", "restore", "/etc/hosts");
      expect([garbage.code, garbage.stdout]).toEqual([1, ""]);
      expect(await outcomeOf(scene)).toEqual(outcome);

      const restored = await higgsOrThrow(vps, "server", "restore", COPY);
      expect(restored).toMatch(/^Restored the database from \/root\/copy\.db: 6 machines, as of 20\d\d-/);
      const files = (await vps.execOrThrow(["ls", "-l", STATE])).split("\n");
      expect(files.filter((line) => line.includes("restoring"))).toEqual([]);
      expect(files.filter((line) => / higgs\.db(\.before-\d+T\d+Z)?$/.test(line)).length).toBe(2);
      expect(files.find((line) => line.endsWith(" higgs.db"))).toMatch(/^-rw------- 1 root root/);

      await startServer(scene.lab);
      expect(await machinesAt(vps)).toBe(scene.machines);
      await untilOnline(scene.lab, scene.herd);
      expect(await higgsOrThrow(vps, "server", "audit")).toContain("database-restored");
      const again = await higgs(vps, "server", "restore", COPY);
      expect([again.code, again.stderr.includes("while the server runs")]).toEqual([1, true]);
      expect(await machinesAt(vps)).toBe(scene.machines);
      await end();
    },
    MINUTE,
  );
});
