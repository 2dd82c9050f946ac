// The client's firewall as rules of pf, in an anchor of its own.
import { SerialQueue } from "../../base/async.ts";
import type { HiggsError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import { type Exec, output, ToolFailed } from "../exec.ts";
import { PF_ANCHOR, PF_ANCHOR_POINT } from "../identifiers-macos.ts";
import type { Journal, UndoEntry } from "../journal.ts";
import type { ClientFirewall } from "./client.ts";
import { clientSentence } from "./client-sentence.ts";
import { FirewallNotLoaded, FirewallNotVerified } from "./errors.ts";
import { anchorTrouble, listedLabels, pfLabels, pfRules, pfText } from "./pf-table.ts";

export interface PfDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly log: Logger;
}

/** Calls are done one after the other, in their order. `device`: what macOS has named the tunnel, asked at each call. */
export function pfClientFirewall(deps: PfDeps & { readonly device: () => Promise<string | null> }): ClientFirewall {
  const { exec, journal, log, device } = deps;
  const queue = new SerialQueue();
  let wanted: readonly string[] | null = null;
  /** Also in memory, for a journal that cannot be written. */
  let held = false;
  const differences = (rules: readonly string[], signal: AbortSignal): Promise<readonly string[]> =>
    differencesOf(exec, { rules, isHeld: held || hasToken(journal) }, signal);

  const load = async (rules: readonly string[], sentence: string, signal: AbortSignal): Promise<void> => {
    const before = await differences(rules, signal);
    if (before.length === 0) return;
    const trouble = await pfTrouble(exec, signal);
    if (trouble !== null) throw trouble;
    log.info({ policy: sentence, differences: before }, "loading the client's firewall");
    await journal.add({ kind: "pf-anchor" });
    if (!isSame(await loadedLabels(exec, signal), pfLabels(rules))) {
      // pfctl(8), -a and -f: replaces the rules of the anchor in one transaction; "-" is standard input.
      await output(exec, ["pfctl", "-a", PF_ANCHOR, "-f", "-"], { stdin: pfText(rules), signal });
    }
    if (!(held || hasToken(journal)) || !(await isEnabled(exec, signal))) {
      await enable(deps, signal);
      held = true;
    }
    // pfctl(8), -F states: what other rules once let pass has a state, and would pass by it whatever ours say.
    await output(exec, ["pfctl", "-F", "states"], { signal });
    const after = await differences(rules, signal);
    if (after.length > 0) throw notVerified(after);
  };

  const remove = async (signal: AbortSignal): Promise<void> => {
    await flushPf(deps, signal);
    await releasePf(deps, signal);
    held = false;
  };

  return {
    apply: ({ policy, egress }, signal) =>
      queue.run(async () => {
        const rules = pfRules(policy, await device());
        if (rules === null) await remove(signal);
        else await load(rules, clientSentence(policy), signal);
        wanted = rules;
        // The machine is closed by then as far as it can be.
        if (egress.length > 0) throw noEgress();
      }),
    closes: (signal) =>
      queue.run(async () => (await loadedLabels(exec, signal)).length > 0 && (await isEnabled(exec, signal))),
    verify: (signal) => queue.run(async () => (wanted === null ? [] : await differences(wanted, signal))),
    reset: (signal) =>
      queue.run(async () => {
        wanted = null;
        await remove(signal);
      }),
  };
}

/** True when rules of ours are loaded, by whomever. Throws ToolFailed for a user who may not ask. */
export async function hasPfRules(exec: Exec, signal: AbortSignal): Promise<boolean> {
  return (await loadedLabels(exec, signal)).length > 0;
}

/** As pf prints them. */
export async function listPfRules(exec: Exec, signal: AbortSignal): Promise<readonly string[]> {
  return (await showAnchor(exec, signal)).split("\n").filter((line) => line.trim() !== "");
}

/** Why pf can close nothing here, and what mends it; null where it can. Changes nothing. */
export async function pfTrouble(exec: Exec, signal: AbortSignal): Promise<HiggsError | null> {
  // pfctl(8), -s rules: the main rules, with the anchors that they call.
  const trouble = anchorTrouble(await output(exec, ["pfctl", "-s", "rules"], { signal }), PF_ANCHOR_POINT);
  if (trouble === null) return null;
  return new FirewallNotLoaded(`Cannot close this machine by pf: ${trouble}.`, {
    code: "pf-unusable",
    remedy: "Put macOS' own rules back, if no other program needs its: sudo pfctl -f /etc/pf.conf",
  });
}

/** Takes our rules away. True when there were any. */
export async function flushPf({ exec, journal }: Omit<PfDeps, "log">, signal: AbortSignal): Promise<boolean> {
  const isLoaded = await hasPfRules(exec, signal);
  // pfctl(8), -F rules with -a: of this anchor alone.
  if (isLoaded) await output(exec, ["pfctl", "-a", PF_ANCHOR, "-F", "rules"], { signal });
  await journal.remove({ kind: "pf-anchor" });
  return isLoaded;
}

/** The reference by which pf is on for us; pf stays on as long as anybody else has one, and "lost" is one whose token nobody knows. */
export async function releasePf(
  { exec, journal, log }: PfDeps,
  signal: AbortSignal,
): Promise<"released" | "lost" | "none"> {
  const entry = enableEntry(journal);
  if (entry === null) return "none";
  if (entry.token !== null) {
    // pfctl(8), -X: releases the reference of a token that -E printed.
    const { code, stderr } = await exec.run(["pfctl", "-X", entry.token], { signal });
    // Whoever switches pf off (pfctl -d) takes all references with it.
    if (code !== 0 && (await hasReference(exec, entry.token, signal))) {
      throw new ToolFailed(`Cannot give back that pf is on for higgs: ${stderr.trim()}.`, { code: "tool-failed" });
    }
    if (code !== 0) log.info({ token: entry.token }, "pf no longer knows our reference");
  }
  await journal.remove(entry);
  return entry.token === null ? "lost" : "released";
}

/** pfctl(8), -s References: who has pf switched on, each with its token. */
async function hasReference(exec: Exec, token: string, signal: AbortSignal): Promise<boolean> {
  const { code, stdout } = await exec.run(["pfctl", "-s", "References"], { signal });
  return code !== 0 || stdout.split(/\s+/).includes(token);
}

type EnableEntry = Extract<UndoEntry, { kind: "pf-enable" }>;

function enableEntry(journal: Pick<Journal, "entries">): EnableEntry | null {
  return journal.entries().find((entry) => entry.kind === "pf-enable") ?? null;
}

function hasToken(journal: Pick<Journal, "entries">): boolean {
  return typeof enableEntry(journal)?.token === "string";
}

/** pf counts who needs it: it goes off with the last reference that is given back (pfctl(8), -E). */
async function enable({ exec, journal, log }: PfDeps, signal: AbortSignal): Promise<void> {
  // Should we die before the token is kept, a reference stays: pf then stays on, without rules of ours, until the next boot.
  await journal.add({ kind: "pf-enable", token: null });
  const result = await exec.run(["pfctl", "-E"], { signal });
  // It prints "Token : " and a number, on standard error.
  const token = /^Token : (\d{1,20})$/m.exec(`${result.stderr}\n${result.stdout}`)?.[1];
  if (token !== undefined) await journal.add({ kind: "pf-enable", token });
  else log.warn({ stderr: result.stderr.trim() }, "pfctl named no token; pf stays on until the next boot");
  if (result.code !== 0) {
    throw new ToolFailed(`Cannot switch pf on: ${result.stderr.trim() || `exit code ${result.code}`}.`, {
      code: "tool-failed",
    });
  }
}

/** pfctl(8), -s info: its first line says "Status: Enabled" or "Status: Disabled". */
async function isEnabled(exec: Exec, signal: AbortSignal): Promise<boolean> {
  return /^Status: Enabled\b/m.test(await output(exec, ["pfctl", "-s", "info"], { signal }));
}

async function loadedLabels(exec: Exec, signal: AbortSignal): Promise<readonly string[]> {
  return listedLabels(await showAnchor(exec, signal));
}

/** pfctl(8), -s rules with -a: of this anchor alone. An anchor that is not there has none. */
async function showAnchor(exec: Exec, signal: AbortSignal): Promise<string> {
  const { code, stdout, stderr } = await exec.run(["pfctl", "-a", PF_ANCHOR, "-s", "rules"], { signal });
  // What the kernel says of an anchor that is not there (pf(4), DIOCGETRULES).
  if (/DIOCGETRULES: Invalid argument|does not exist/.test(stderr)) return "";
  if (code === 0) return stdout;
  throw new ToolFailed(`Cannot list the rules of pf: ${stderr.trim() || `exit code ${code}`}.`, {
    code: "tool-failed",
    detail: { stderr },
  });
}

async function differencesOf(
  exec: Exec,
  wanted: { readonly rules: readonly string[]; readonly isHeld: boolean },
  signal: AbortSignal,
): Promise<readonly string[]> {
  const found: string[] = [];
  const loaded = await loadedLabels(exec, signal);
  if (!isSame(loaded, pfLabels(wanted.rules))) {
    found.push(`The rules in the anchor ${PF_ANCHOR} are not as wanted: ${loaded.length} are loaded.`);
  }
  if (!(await isEnabled(exec, signal))) found.push("pf is switched off.");
  else if (!wanted.isHeld) found.push("pf is on for somebody else alone.");
  const trouble = await pfTrouble(exec, signal);
  if (trouble !== null) found.push(trouble.message);
  return found;
}

function isSame(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((one, at) => one === b[at]);
}

function notVerified(found: readonly string[]): FirewallNotVerified {
  return new FirewallNotVerified(`Cannot rely on the client's firewall: ${found.join(" ")}`, {
    code: "firewall-not-verified",
    remedy: "Another program may be changing the rules at the same time; see: sudo pfctl -s References",
  });
}

function noEgress(): FirewallNotLoaded {
  return new FirewallNotLoaded("Cannot stop raw frames (--paranoid) on macOS: pf does not see them.", {
    code: "paranoid-unavailable",
    remedy: "sudo higgs client lockdown on --no-paranoid",
  });
}
