// Tests of the lock: one holder at a time, taken over from the dead, by one of many who try at once.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { thisProcess } from "../../../src/net/process-identity.ts";
import { acquireInstanceLock, AlreadyRunning, type InstanceLock } from "../../../src/net/single-instance.ts";

const SOURCE = resolve(import.meta.dir, "../../../src/net/single-instance.ts");
const HOLDER = `
const { acquireInstanceLock } = await import(${JSON.stringify(SOURCE)});
try {
  await acquireInstanceLock({ runDir: process.argv[1], role: "node" });
  console.log("held");
} catch (thrown) {
  console.log(thrown.code);
}
await Bun.stdin.text();
`;

let runDir = "";
beforeEach(() => {
  runDir = mkdtempSync(join(tmpdir(), "higgs-lock-"));
});
afterEach(() => rmSync(runDir, { recursive: true }));

function acquire(): Promise<InstanceLock> {
  return acquireInstanceLock({ runDir, role: "node" });
}

/** A process of its own; it stays until it is killed or its input is closed. */
function startHolder() {
  const child = Bun.spawn([process.execPath, "-e", HOLDER, runDir], {
    stdin: "pipe",
    stdout: "pipe",
    stderr: "inherit",
  });
  const said = (async (): Promise<string> => {
    const { value } = await child.stdout.getReader().read();
    return new TextDecoder().decode(value).trim();
  })();
  return { child, said };
}

function owner(): unknown {
  return JSON.parse(readFileSync(join(runDir, "lock"), "utf8"));
}

function leaveDeadOwner(name = "lock", startTime = "1"): void {
  writeFileSync(join(runDir, name), JSON.stringify({ ...thisProcess(), startTime, role: "node" }));
}

describe("acquireInstanceLock()", () => {
  test("bug: a command that held the lock for moments was taken for a role that runs", async () => {
    const command = await acquireInstanceLock({ runDir, role: "node", brief: true });
    const waiting = acquire();
    await Bun.sleep(50); // long enough to be refused
    await command[Symbol.asyncDispose]();
    await using _ = await waiting;
    expect(owner()).not.toHaveProperty("brief");
  });

  test("refuses a second holder and names the first one's pid", async () => {
    await using _ = await acquire();
    const thrown = await acquire().catch((caught: unknown) => caught);
    expect(thrown).toBeInstanceOf(AlreadyRunning);
    expect(thrown).toMatchObject({ code: "already-running", detail: { pid: process.pid } });
    expect(String(thrown)).toContain(`with the pid ${process.pid}`);
    expect(owner()).toMatchObject({ ...thisProcess() });
  });

  test("gives the lock back once, and leaves nothing in the folder", async () => {
    const lock = await acquire();
    await lock[Symbol.asyncDispose]();
    expect(readdirSync(runDir)).toEqual([]);
    const next = await acquire();
    await lock[Symbol.asyncDispose]();
    expect(owner()).toMatchObject({ ...thisProcess() });
    await next[Symbol.asyncDispose]();
    expect(readdirSync(runDir)).toEqual([]);
  });

  test("takes over from a process that was killed, and not before", async () => {
    const holder = startHolder();
    expect(await holder.said).toBe("held");
    expect(await acquire().catch((thrown: unknown) => thrown)).toMatchObject({ detail: { pid: holder.child.pid } });
    holder.child.kill("SIGKILL");
    await holder.child.exited;
    await using _ = await acquire();
    expect(readdirSync(runDir)).toEqual(["lock"]);
  });

  test("is won by one of many processes that find a dead owner at once", async () => {
    leaveDeadOwner();
    const holders = Array.from({ length: 4 }, startHolder);
    const said = await Promise.all(holders.map((holder) => holder.said));
    expect(said.sort()).toEqual(["already-running", "already-running", "already-running", "held"]);
    await Promise.all(
      holders.map(async ({ child }) => {
        child.kill("SIGKILL");
        await child.exited;
      }),
    );
  });

  test("is won by one in every of many races, whatever dead owners lie about", async () => {
    for (let round = 0; round < 60; round++) {
      leaveDeadOwner();
      // A successor that died before it had replaced the lock, and one of that one.
      if (round % 3 > 0) leaveDeadOwner(`lock.after-${process.pid}-1`, "2");
      if (round % 3 > 1) leaveDeadOwner(`lock.after-${process.pid}-2`, "3");
      const tries = await Promise.allSettled(Array.from({ length: 6 }, acquire));
      const won = tries.filter((one) => one.status === "fulfilled");
      expect(won).toHaveLength(1);
      for (const one of tries) if (one.status === "rejected") expect(one.reason).toBeInstanceOf(AlreadyRunning);
      expect(readdirSync(runDir)).toEqual(["lock"]);
      await won[0]?.value[Symbol.asyncDispose]();
      expect(readdirSync(runDir)).toEqual([]);
    }
  });

  test("takes garbage, and a pid that is another process now, for a dead owner", async () => {
    for (const text of ["", "garbage", '{"pid":-1}', JSON.stringify({ ...thisProcess(), startTime: "7" })]) {
      writeFileSync(join(runDir, "lock"), text);
      await using _ = await acquire();
      expect(owner()).toMatchObject({ ...thisProcess() });
    }
  });

  test("neither follows a symbolic link nor writes through it", async () => {
    const other = join(runDir, "other");
    writeFileSync(other, "untouched");
    symlinkSync(other, join(runDir, "lock"));
    await using _ = await acquire();
    expect(readFileSync(other, "utf8")).toBe("untouched");
  });

  test("says what to do where the folder cannot be made", async () => {
    writeFileSync(join(runDir, "file"), "");
    const thrown = await acquireInstanceLock({ runDir: join(runDir, "file", "run"), role: "server" }).catch(
      (caught: unknown) => caught,
    );
    expect(thrown).toMatchObject({ code: "run-dir-refused" });
  });
});
