// A server's database damaged in many ways behind its back, and what the real server makes of it: it serves all its machines, or says why not.
import { readFileSync, writeFileSync } from "node:fs";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { internetHost, smallInternet } from "../../src/lab/small-internet.ts";
import { HIGGS, higgsOrThrow, killNow, pidOf, startClientLab, startServer } from "./client-lab.ts";
import { until } from "./harness.ts";
import { HERD_HOST, type Herd, startHerd } from "./herd.ts";
import { randomFrom } from "./random.ts";

export const STATE = "/var/lib/higgs/server";
const GOOD = "/root/good";
export const DATABASE = `${STATE}/higgs.db`;
/** Made by the running server. */
export const COPY = "/root/copy.db";
const MACHINES = 6;

export interface DamageScene extends AsyncDisposable {
  readonly lab: Lab;
  readonly vps: LabHost;
  readonly herd: Herd;
  /** As `higgs server machines` has them, of what does not change by itself. */
  readonly machines: string;
}

/** A server with machines that was killed; its folder is kept to be damaged again and again. */
export async function startDamageScene(): Promise<DamageScene> {
  const { segments } = smallInternet();
  const gateway = smallInternet({ extraHosts: [HERD_HOST] }).hosts.filter(({ name }) => name === "internet");
  const lab = await startClientLab({ segments, hosts: [...gateway, internetHost("vps", 10), HERD_HOST] });
  try {
    const vps = lab.host("vps");
    await startServer(lab);
    const herd = await startHerd(lab, MACHINES);
    const machines = await until(async () => {
      const found = await machinesAt(vps);
      return found.split("\n").length === MACHINES ? found : null;
    });
    await higgsOrThrow(vps, "server", "backup", COPY);
    await killNow(vps, await pidOf(vps, "server"));
    await vps.execOrThrow(["cp", "-a", STATE, GOOD]);
    return { lab, vps, herd, machines, [Symbol.asyncDispose]: () => lab[Symbol.asyncDispose]() };
  } catch (thrown) {
    await lab[Symbol.asyncDispose]();
    throw thrown;
  }
}

export async function machinesAt(vps: LabHost): Promise<string> {
  const { machines } = JSON.parse(await higgsOrThrow(vps, "server", "machines", "--json")) as {
    machines: Record<string, unknown>[];
  };
  const kept = machines.map(({ name, role, ipv4, ipv6, tags }) => JSON.stringify({ name, role, ipv4, ipv6, tags }));
  return kept.toSorted().join("\n");
}

/** The folder as it was when the server was killed. */
export async function putBack({ vps }: Pick<DamageScene, "vps">): Promise<void> {
  await vps.execOrThrow(["sh", "-c", `find ${STATE} -mindepth 1 -delete && cp -a ${GOOD}/. ${STATE}/`]);
}

export type Outcome =
  | { readonly kind: "serves"; readonly machines: string }
  /** What it said to the person, and whether the damaged file is byte for byte as it was. */
  | { readonly kind: "refused"; readonly code: number; readonly said: string; readonly isUntouched: boolean };

/** Starts the server on what is there, and ends it again. */
export async function outcomeOf({ vps }: Pick<DamageScene, "vps">, flags: readonly string[] = []): Promise<Outcome> {
  const before = bytesOf(vps);
  const server = await vps.spawn([HIGGS, "server", ...flags]);
  const isRunning = await Promise.race([
    server.waitForLine(/higgs server is running/).then(
      () => true,
      () => false,
    ),
    server.exited.then(() => false),
  ]);
  if (isRunning) {
    const machines = await machinesAt(vps);
    server.kill("SIGKILL");
    await server.exited;
    return { kind: "serves", machines };
  }
  server.kill("SIGKILL"); // one that hangs
  const code = await server.exited;
  const after = bytesOf(vps);
  return { kind: "refused", code, said: server.lines.join("\n"), isUntouched: before.equals(after) };
}

/** Nothing of a crash, a sentence about what cannot be done, and what mends it. */
export function isClear(outcome: Extract<Outcome, { kind: "refused" }>): boolean {
  const { code, said } = outcome;
  return code > 0 && code < 128 && /Cannot .*"[^"]*higgs\.db"/.test(said) && !/panic|Bun has crashed|Error:/.test(said);
}

function pathFromHere(vps: LabHost, path: string): string {
  return `/proc/${vps.pid}/root${path}`;
}

function bytesOf(vps: LabHost): Buffer {
  try {
    return readFileSync(pathFromHere(vps, DATABASE));
  } catch {
    return Buffer.alloc(0); // not there
  }
}

/** So many bits, anywhere in the file. */
export function flipBits(
  { vps }: Pick<DamageScene, "vps">,
  options: { readonly seed: number; readonly count: number },
) {
  const random = randomFrom(options.seed);
  const bytes = bytesOf(vps);
  for (let n = 0; n < options.count; n++) {
    const at = Math.floor(random() * bytes.length);
    bytes[at] = (bytes[at] ?? 0) ^ (1 << Math.floor(random() * 8));
  }
  writeFileSync(pathFromHere(vps, DATABASE), bytes);
}

/** To some length below what it has. */
export function cutShort({ vps }: Pick<DamageScene, "vps">, seed: number): void {
  const bytes = bytesOf(vps);
  writeFileSync(pathFromHere(vps, DATABASE), bytes.subarray(0, Math.floor(randomFrom(seed)() * bytes.length)));
}

export interface Tally {
  readonly runs: number;
  readonly refused: number;
  readonly served: number;
  /** Those that neither served all machines nor said clearly why not. */
  readonly bad: readonly string[];
}

/** One kind of damage with one seed after the other. */
export async function tally(
  scene: DamageScene,
  options: { readonly runs: number; readonly seed: number; readonly damage: (seed: number) => void },
): Promise<Tally> {
  let [refused, served] = [0, 0];
  const bad: string[] = [];
  for (let n = 0; n < options.runs; n++) {
    const seed = options.seed + n;
    await putBack(scene);
    options.damage(seed);
    const outcome = await outcomeOf(scene);
    if (outcome.kind === "serves") {
      served++;
      if (outcome.machines !== scene.machines) bad.push(`seed ${seed} serves others:\n${outcome.machines}`);
    } else {
      refused++;
      if (!isClear(outcome) || !outcome.isUntouched) bad.push(`seed ${seed}: ${outcome.code}, ${outcome.said}`);
    }
  }
  return { runs: refused + served, refused, served, bad };
}
