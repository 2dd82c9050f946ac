// Whatever command fails, and whether or not it did its work: what was done is put back, from every single step.
import { describe, expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { change, comeUp, scene, type Scene, signal } from "./client-scene.ts";
import { type Failure, FakeWindows } from "./fake-windows.ts";
import { failureOf } from "../../support/failure.ts";

/** A person's own settings, which must come back. */
function machine(): FakeWindows {
  const windows = new FakeWindows();
  windows.profiles.set("Private", { enabled: "False", outbound: "Allow" });
  windows.profiles.set("Public", { enabled: "True", outbound: "Block" });
  return windows;
}

async function life({ systems, options }: Scene): Promise<void> {
  const os = await systems.client(options);
  await comeUp(os);
  await change(os);
}

const BEFORE = machine().printed();
const WHEN: Readonly<Record<Failure, string>> = {
  before: "that fails before its work",
  after: "that fails after its work",
  killed: "with which the process dies",
};
/** The journal of each life is synced to a disk that others may keep busy. */
const DEADLINE_MS = 60_000;

async function changesOf(work: (scene: Scene) => Promise<void>): Promise<number> {
  const made = scene(machine());
  try {
    await work(made);
    return made.windows.changes;
  } finally {
    rmSync(made.stateDir, { recursive: true });
  }
}

describe("undoAll() on Windows", () => {
  test(
    "puts the machine back whichever command failed, also one that only asks",
    async () => {
      const whole = scene(machine());
      await life(whole);
      const count = whole.windows.asked;
      rmSync(whole.stateDir, { recursive: true });
      expect(count).toBeGreaterThan(40);
      for (let at = 1; at <= count; at++) {
        const made = scene(machine());
        made.windows.failingCall = at;
        await life(made).catch(() => undefined); // "there is no such tunnel" is an answer too
        made.windows.failingCall = 0;
        await (await made.systems.machine("client", made.options)).undoAll(signal);
        expect(made.windows.printed(), `call ${at}`).toBe(BEFORE);
        rmSync(made.stateDir, { recursive: true });
      }
    },
    DEADLINE_MS,
  );

  for (const when of ["before", "after", "killed"] as const satisfies readonly Failure[]) {
    test(
      `puts the machine back from every step of a client's life ${WHEN[when]}`,
      async () => {
        const count = await changesOf(life);
        expect(count).toBeGreaterThan(20);
        for (let at = 1; at <= count; at++) {
          const made = scene(machine());
          made.windows.failure = { at, when };
          const failed = await life(made).then(
            () => null,
            (thrown: unknown) => thrown,
          );
          expect(failed, `step ${at}: ${made.windows.calls.at(-1)}`).not.toBeNull();
          made.windows.failure = null;
          made.windows.isKilled = false;
          await (await made.systems.machine("client", made.options)).undoAll(signal);
          expect(made.windows.printed(), `step ${at}`).toBe(BEFORE);
          rmSync(made.stateDir, { recursive: true });
        }
      },
      DEADLINE_MS,
    );

    test(
      `goes on from every step of its own ${WHEN[when]}, and is whole at the next try`,
      async () => {
        const whole = scene(machine());
        await life(whole);
        const first = whole.windows.changes;
        await (await whole.systems.machine("client", whole.options)).undoAll(signal);
        const count = whole.windows.changes - first;
        rmSync(whole.stateDir, { recursive: true });
        expect(count).toBeGreaterThan(8);
        for (let at = 1; at <= count; at++) {
          const made = scene(machine());
          await life(made);
          made.windows.failure = { at: first + at, when };
          const undo = async () => await (await made.systems.machine("client", made.options)).undoAll(signal);
          expect(await failureOf(undo()), `step ${at}`).toMatchObject({ code: "undo-incomplete" });
          made.windows.failure = null;
          made.windows.isKilled = false;
          await undo();
          expect(made.windows.printed(), `step ${at}`).toBe(BEFORE);
          rmSync(made.stateDir, { recursive: true });
        }
      },
      DEADLINE_MS,
    );
  }
});
