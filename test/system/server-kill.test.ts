// A server killed in the middle of many writes, again and again: its database is whole, what it acknowledged is there, and no used invite is good.
import { afterEach, beforeEach, expect, test } from "bun:test";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { createClient } from "@libsql/client";
import { parseInvite } from "../../src/proto/invite.ts";
import type { SpkiHash } from "../../src/proto/keys.ts";
import { type Newcomer, newcomer, registerBody, temporaryDir, type TestServer } from "./server-support.ts";

/** `npm run kills` says 50 and 1000. */
const ROUNDS = Number(process.env["HIGGS_KILL_ROUNDS"] ?? 6);
const WRITES = Number(process.env["HIGGS_KILL_WRITES"] ?? 80);
/** Half of the writes enrol a machine each. */
const INVITES = Math.floor(WRITES / 2);
const AT_ONCE = 10;
/** Of each round, asked for again with their own keys and with others'. */
const ASKED_AGAIN = 20;

interface Known {
  readonly id: string;
  readonly name: string;
  readonly ipv4: string;
  readonly tags: readonly string[];
}

interface Child {
  readonly process: Bun.Subprocess<"ignore", "pipe", "pipe">;
  readonly port: number;
  readonly certPem: string;
  readonly spki: SpkiHash;
  readonly invites: readonly string[];
  readonly machines: readonly Known[];
  /** Resolves when the server said that it is done; never when it was killed before. */
  tag(name: string, tag: string): Promise<void>;
}

interface Enrolment {
  readonly invite: string;
  readonly who: Newcomer;
  readonly name: string;
  /** Null: killed before the answer came. */
  readonly id: string | null;
}

let stateDir: string;
beforeEach(async () => {
  stateDir = await temporaryDir();
});
afterEach(async () => {
  await rm(stateDir, { recursive: true, force: true });
});

async function startChild(invites: number): Promise<Child> {
  const waiting = new Map<string, () => void>();
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "server-process.program.ts")], {
    env: { ...process.env, STATE_DIR: stateDir, INVITES: String(invites) },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    ipc: (name: string) => waiting.get(name)?.(),
  });
  let text = "";
  const decoder = new TextDecoder();
  for await (const chunk of child.stdout) {
    text += decoder.decode(chunk, { stream: true });
    if (text.endsWith("\n")) break;
  }
  if (!text.endsWith("\n")) throw new Error(`no server: ${await child.stderr.text()}`);
  return {
    process: child,
    ...(JSON.parse(text) as Pick<Child, "port" | "certPem" | "spki" | "invites" | "machines">),
    tag: (name, tag) =>
      new Promise((resolve) => {
        waiting.set(name, resolve);
        try {
          child.send({ name, tags: [tag] });
        } catch {
          // killed: whoever waits is told of its end
        }
      }),
  };
}

async function enrol(at: Child, invite: string, who: Newcomer, name: string): Promise<Record<string, unknown>> {
  const body = registerBody({ spki: at.spki } as TestServer, parseInvite(invite), who, { name });
  const response = await fetch(`https://127.0.0.1:${at.port}/api/v1/nodes/register`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    tls: { ca: at.certPem, checkServerIdentity: () => undefined },
  });
  return (await response.json()) as Record<string, unknown>;
}

/** So many at once, in order; each is told whether the server still lives. */
async function inFlight(works: readonly (() => Promise<void>)[]): Promise<void> {
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < works.length) await works[next++]?.();
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
}

test(
  `a server that is killed loses nothing that it acknowledged, ${ROUNDS} times in the middle of ${WRITES} writes`,
  async () => {
    const acknowledgedTags = new Map<string, string>();
    const sentTags = new Map<string, string>();
    const ids = new Map<string, string>();
    let last: readonly Enrolment[] = [];
    const counts = { killedMidway: 0, acknowledged: 0, cutOff: 0, askedAgain: 0, integrity: 0 };

    const judge = async (at: Child): Promise<void> => {
      counts.integrity++; // a database that is not whole is refused at the start
      const known = new Map(at.machines.map((machine) => [machine.name, machine]));
      const missing = [...ids].filter(([name, id]) => known.get(name)?.id !== id);
      expect(missing).toEqual([]);
      // A change that was under way may have been made or not; one that was acknowledged is there, unless a later one was under way.
      const reverted = [...acknowledgedTags].filter(([name, tag]) => {
        const is = known.get(name)?.tags[0];
        return is !== tag && is !== sentTags.get(name);
      });
      expect(reverted).toEqual([]);
      for (const { name, tags } of at.machines) {
        if (tags[0] !== undefined) acknowledgedTags.set(name, tags[0]);
      }
      expect(new Set(at.machines.map(({ ipv4 }) => ipv4)).size).toBe(at.machines.length);
      for (const { invite, who, name, id } of last.toSorted(() => Math.random() - 0.5).slice(0, ASKED_AGAIN)) {
        const again = await enrol(at, invite, who, name);
        expect(again).toMatchObject(id === null ? { name } : { name, id });
        expect((await enrol(at, invite, newcomer(), `${name}-thief`))["code"]).toBe("invite-used");
        ids.set(name, String(again["id"]));
        counts.askedAgain++;
      }
    };

    for (let round = 0; round < ROUNDS; round++) {
      const at = await startChild(INVITES);
      await judge(at);
      const before = [...ids.keys()];
      const enrolments: Enrolment[] = [];
      const most = at.invites.length + Math.min(at.invites.length, before.length);
      const killAfter = 1 + Math.floor(Math.random() * (most - 2 * AT_ONCE));
      let answered = 0;
      let isDead = false;
      const gone = at.process.exited.then(() => {
        isDead = true;
      });
      const done = (): void => {
        if (++answered === killAfter) setTimeout(() => at.process.kill("SIGKILL"), Math.random() * 3);
      };
      const enrolOne = async (invite: string, n: number): Promise<void> => {
        if (isDead) return;
        const who = newcomer();
        const name = `m${round}-${n}`;
        try {
          const { id } = await enrol(at, invite, who, name);
          enrolments.push({ invite, who, name, id: String(id) });
          ids.set(name, String(id));
          counts.acknowledged++;
          done();
        } catch {
          enrolments.push({ invite, who, name, id: null });
          counts.cutOff++;
        }
      };
      const tagOne = async (n: number): Promise<void> => {
        // Each has its own machine of an earlier round, so that what was sent last is known.
        const name = before[n];
        if (isDead || name === undefined) return;
        const tag = `r${round}`;
        sentTags.set(name, tag);
        const isMade = await Promise.race([at.tag(name, tag).then(() => true), gone.then(() => false)]);
        if (!isMade) return;
        acknowledgedTags.set(name, tag);
        counts.acknowledged++;
        done();
      };
      await inFlight(at.invites.flatMap((invite, n) => [() => enrolOne(invite, n), () => tagOne(n)]));
      at.process.kill("SIGKILL");
      await gone;
      if (answered < most) counts.killedMidway++;
      last = enrolments;
    }
    const at = await startChild(0);
    await judge(at);
    at.process.kill("SIGKILL");
    await at.process.exited;
    const client = createClient({ url: `file:${join(stateDir, "higgs.db")}` });
    expect((await client.execute("PRAGMA integrity_check")).rows.map((row) => row[0])).toEqual(["ok"]);
    client.close();
    console.log(JSON.stringify({ rounds: ROUNDS, writes: WRITES, ...counts, machines: ids.size }));
    expect(counts.killedMidway).toBe(ROUNDS);
    expect(counts.integrity).toBe(ROUNDS + 1);
    expect(counts.acknowledged).toBeGreaterThanOrEqual(ROUNDS);
    expect(counts.askedAgain).toBeGreaterThanOrEqual(ROUNDS);
  },
  30 * 60_000,
);
