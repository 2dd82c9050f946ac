// The client's firewall as rules of Windows Firewall: one group, whose rules are named by what they say.
import { z } from "zod";
import { SerialQueue } from "../../base/async.ts";
import { HiggsError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import type { Exec } from "../exec.ts";
import type { Journal, WindowsProfileEntry } from "../journal.ts";
import { askScript, fitsScript, runScript } from "../powershell.ts";
import type { ClientFirewall, ClientFirewallPolicy } from "./client.ts";
import { clientSentence } from "./client-sentence.ts";
import { FirewallNotLoaded, FirewallNotVerified } from "./errors.ts";
import { type WindowsRule, type WindowsRules, windowsRules } from "./windows-rules.ts";

export interface WindowsClientDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly log: Logger;
  readonly group: string;
  /** higgs' own executable. */
  readonly program: string;
}

/** Windows Firewall cannot do what was asked for, or something stronger than local rules rules it. */
export class WindowsFirewallRefused extends HiggsError {
  override readonly name = "WindowsFirewallRefused";
}

export const PROFILES = ["Domain", "Private", "Public"] as const;

const setting = z.enum(["True", "False", "NotConfigured"]);
const action = z.enum(["Allow", "Block", "NotConfigured"]);
const firewallState = z.object({
  rules: z.array(z.object({ name: z.string(), enabled: z.string(), direction: z.string(), action: z.string() })),
  profiles: z.array(
    z.object({
      name: z.enum(PROFILES),
      /** In force, from local settings and group policy. */
      enabled: setting,
      outbound: action,
      /** This machine's own setting. */
      ownEnabled: setting,
      ownOutbound: action,
      localRules: setting,
      without: z.array(z.string()),
    }),
  ),
});
export type WindowsFirewallState = z.infer<typeof firewallState>;

/** As `state list` names what closes. */
export function closingName(group: string): string {
  return `Windows Firewall ${group}`;
}

export function profileName(profile: string): string {
  return `Windows Firewall profile ${profile}`;
}

const CLOSED = { enabled: "True", outbound: "Block" } as const;
/** Windows' own default, for a machine of which nobody knows what it was. */
const UNKNOWN_BEFORE = { enabled: "True", outbound: "NotConfigured" } as const;

export async function readWindowsFirewall(
  exec: Exec,
  group: string,
  signal: AbortSignal,
): Promise<WindowsFirewallState> {
  return await askScript(exec, "read-firewall", { schema: firewallState, parameters: { group }, signal });
}

/** Calls are done one after the other, in their order. There are no transactions: what closes comes first, what opens last. */
export function windowsClientFirewall(deps: WindowsClientDeps): ClientFirewall {
  const { exec, journal, log, group } = deps;
  const queue = new SerialQueue();
  let wanted: WindowsRules | null = null;
  const read = (signal: AbortSignal): Promise<WindowsFirewallState> => readWindowsFirewall(exec, group, signal);

  const add = async (rules: readonly WindowsRule[], signal: AbortSignal): Promise<void> => {
    for (const some of portions(rules, group)) {
      await runScript(exec, "add-firewall-rules", { parameters: { group, rules: some }, signal });
    }
  };
  const remove = async (names: readonly string[], signal: AbortSignal): Promise<void> => {
    if (names.length > 0) await runScript(exec, "remove-firewall-rules", { parameters: { group, names }, signal });
  };

  const close = async (policy: ClientFirewallPolicy, signal: AbortSignal): Promise<void> => {
    const next = windowsRules(policy, deps);
    const now = await read(signal);
    if (differences(now, next).length === 0) return;
    refuseOverruled(now);
    log.info({ policy: clientSentence(policy), differences: differences(now, next) }, "loading the client's firewall");
    if (!journal.entries().some((entry) => entry.kind === "windows-firewall"))
      await journal.add({ kind: "windows-firewall" });
    await journalProfiles(journal, now);
    // A rule of our name that somebody changed is none of ours any more: taken away and made anew.
    const spoilt = now.rules.filter((rule) => isSpoilt(rule, next)).map(({ name }) => name);
    await remove(spoilt, signal);
    const there = new Set(now.rules.map(({ name }) => name).filter((name) => !spoilt.includes(name)));
    const missing = next.rules.filter((rule) => !there.has(rule.Name));
    const stale = now.rules.filter(({ name }) => there.has(name) && next.rules.every((rule) => rule.Name !== name));
    await add(
      missing.filter(({ Action }) => Action === "Block"),
      signal,
    );
    await closeProfiles(exec, now, signal);
    await add(
      missing.filter(({ Action }) => Action === "Allow"),
      signal,
    );
    await remove(
      stale.filter((rule) => rule.action === "Allow").map(({ name }) => name),
      signal,
    );
    await remove(
      stale.filter((rule) => rule.action !== "Allow").map(({ name }) => name),
      signal,
    );
    const after = differences(await read(signal), next);
    if (after.length > 0) throw notVerified(after);
  };

  return {
    apply: ({ policy, egress }, signal) =>
      queue.run(async () => {
        if (egress.length > 0) throw noRawFrames();
        const next = windowsRules(policy, deps);
        if (next.isClosed) await close(policy, signal);
        else await openWindowsFirewall(deps, signal);
        wanted = next;
      }),
    closes: (signal) => queue.run(async () => (await read(signal)).rules.some((rule) => rule.action === "Block")),
    verify: (signal) =>
      queue.run(async () => {
        if (wanted === null) {
          throw new FirewallNotLoaded("Cannot verify the rules of Windows Firewall: none were applied yet.", {
            code: "firewall-not-loaded",
          });
        }
        return wanted.isClosed ? differences(await read(signal), wanted) : [];
      }),
    reset: (signal) =>
      queue.run(async () => {
        wanted = null;
        await openWindowsFirewall(deps, signal);
      }),
  };
}

/** As few as fit a command line each: PowerShell takes a second to start. */
function portions(rules: readonly WindowsRule[], group: string): readonly (readonly WindowsRule[])[] {
  const found: WindowsRule[][] = [];
  for (const rule of rules) {
    const last = found.at(-1);
    if (last !== undefined && fitsScript("add-firewall-rules", { group, rules: [...last, rule] })) last.push(rule);
    else found.push([rule]);
  }
  return found;
}

/** Puts profiles and rules back, with or without a memory of them. True when there was anything of ours. */
export async function openWindowsFirewall(
  { exec, journal, group }: Pick<WindowsClientDeps, "exec" | "journal" | "group">,
  signal: AbortSignal,
): Promise<boolean> {
  const restored = await restoreWindowsProfiles({ exec, journal, group }, signal);
  const count = await removeGroup(exec, group, signal);
  await journal.remove({ kind: "windows-firewall" });
  return restored.length > 0 || count > 0;
}

/**
 * Only what is still as we set it. Without a memory of what was, rules of ours that are there say that it was we who closed: then the
 * profiles get Windows' own default. Resolves with sentences.
 */
export async function restoreWindowsProfiles(
  { exec, journal, group }: Pick<WindowsClientDeps, "exec" | "journal" | "group">,
  signal: AbortSignal,
): Promise<readonly string[]> {
  const now = await readWindowsFirewall(exec, group, signal);
  const closed = now.profiles.filter(
    ({ ownEnabled, ownOutbound }) => ownEnabled === CLOSED.enabled && ownOutbound === CLOSED.outbound,
  );
  const entries = journal.entries().filter((entry) => entry.kind === "windows-profile");
  const back = entries
    .filter((entry) => closed.some(({ name }) => name === entry.profile))
    .map(({ profile, before }) => ({ name: profile, ...before }));
  if (back.length > 0) await runScript(exec, "set-firewall-profiles", { parameters: { profiles: back }, signal });
  for (const entry of entries) await journal.remove(entry);
  if (entries.length > 0) return ["Put the default action of Windows Firewall back."];
  const isOurs = now.rules.some((rule) => rule.action === "Block");
  if (closed.length === 0 || !isOurs) return [];
  const profiles = closed.map(({ name }) => ({ name, ...UNKNOWN_BEFORE }));
  await runScript(exec, "set-firewall-profiles", { parameters: { profiles }, signal });
  return ["Gave Windows Firewall its usual default action, as nothing tells what it was before."];
}

export async function removeGroup(exec: Exec, group: string, signal: AbortSignal): Promise<number> {
  const schema = z.object({ count: z.number() });
  return (await askScript(exec, "remove-firewall-group", { schema, parameters: { group }, signal })).count;
}

/** Before any rule of ours is there: from then on rules of ours are what tells that it was we who closed. */
async function journalProfiles(journal: Journal, now: WindowsFirewallState): Promise<void> {
  for (const { name, ownEnabled, ownOutbound } of now.profiles) {
    const isClosed = ownEnabled === CLOSED.enabled && ownOutbound === CLOSED.outbound;
    const isOurs = isClosed && now.rules.some((rule) => rule.action === "Block");
    const before = isOurs ? UNKNOWN_BEFORE : { enabled: ownEnabled, outbound: ownOutbound };
    const entry: WindowsProfileEntry = { kind: "windows-profile", profile: name, before };
    await journal.add(entry);
  }
}

async function closeProfiles(exec: Exec, now: WindowsFirewallState, signal: AbortSignal): Promise<void> {
  const profiles = now.profiles
    .filter(({ enabled, outbound }) => enabled !== CLOSED.enabled || outbound !== CLOSED.outbound)
    .map(({ name }) => ({ name, ...CLOSED }));
  if (profiles.length > 0) await runScript(exec, "set-firewall-profiles", { parameters: { profiles }, signal });
}

function isSpoilt(there: WindowsFirewallState["rules"][number], { rules }: WindowsRules): boolean {
  const rule = rules.find(({ Name }) => Name === there.name);
  if (rule === undefined) return false;
  return there.enabled !== "True" || there.action !== rule.Action || there.direction !== rule.Direction;
}

function differences(now: WindowsFirewallState, wanted: WindowsRules): readonly string[] {
  const there = new Set(now.rules.map(({ name }) => name));
  const names = new Set(wanted.rules.map(({ Name }) => Name));
  return [
    ...wanted.rules
      .filter(({ Name }) => !there.has(Name))
      .map(({ DisplayName }) => `The rule "${DisplayName}" is missing.`),
    ...now.rules.filter((rule) => isSpoilt(rule, wanted)).map(({ name }) => `The rule ${name} was changed.`),
    ...now.rules.filter(({ name }) => !names.has(name)).map(({ name }) => `The rule ${name} is not wanted.`),
    ...now.profiles
      .filter(({ enabled, outbound }) => enabled !== CLOSED.enabled || outbound !== CLOSED.outbound)
      .map(({ name }) => `The profile ${name} does not block what no rule allows.`),
  ];
}

/** As Get-NetFirewallProfile lists "DisabledInterfaceAliases" where nobody named one. */
const NONE_EXEMPT = "NotConfigured";

/** Where group policy ignores local rules, or an interface is exempt, ours would close nothing. */
function refuseOverruled({ profiles }: WindowsFirewallState): void {
  for (const { name, localRules, without } of profiles) {
    if (localRules === "False")
      throw overruled(`group policy ignores this machine's own rules in the profile "${name}"`);
    const exempt = without.filter((alias) => alias !== NONE_EXEMPT);
    if (exempt.length > 0) throw overruled(`interfaces are exempt from the profile "${name}": ${exempt.join(", ")}`);
  }
}

function overruled(why: string): WindowsFirewallRefused {
  return new WindowsFirewallRefused(`Cannot close this machine with Windows Firewall: ${why}.`, {
    code: "windows-firewall-overruled",
    remedy: "See: Get-NetFirewallProfile -PolicyStore ActiveStore",
  });
}

function noRawFrames(): WindowsFirewallRefused {
  return new WindowsFirewallRefused("Cannot stop raw frames on Windows: its firewall does not see them.", {
    code: "paranoid-unsupported",
    remedy: "higgs client lockdown on, without --paranoid",
  });
}

function notVerified(found: readonly string[]): FirewallNotVerified {
  return new FirewallNotVerified(`Cannot rely on Windows Firewall: ${found.join(" ")}`, {
    code: "firewall-not-verified",
    remedy: "Another program, or group policy, may be changing the rules at the same time.",
  });
}
