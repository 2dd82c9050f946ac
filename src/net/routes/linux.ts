// A client's routes as Linux policy routing: exceptions first, then one table that ends in "unreachable".
import { SerialQueue } from "../../base/async.ts";
import { errorText } from "../../base/errors.ts";
import { type Family, familyOf, formatEndpoint } from "../../base/ip.ts";
import type { Logger } from "../../base/log.ts";
import { type Exec, output, ToolFailed } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";
import type { Journal, SysctlKey } from "../journal.ts";
import { removeEach, removeListed } from "../remove-listed.ts";
import type { Sysctl } from "../sysctl.ts";
import type { ClientRoutes, ClientRoutesPolicy } from "./client-routes.ts";
import { RoutesRefused } from "./errors.ts";
import { listedRoutes, listedRules } from "./listed-rules.ts";
import { checkMtus, type PeerMtu, type PeerMtus } from "./peer-mtu.ts";
import { reconcile, removal, type RouteLines, type RouteNumbers, routeNumbers, wantedLines } from "./rules.ts";

export interface LinuxRoutesDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly identifiers: Identifiers;
  readonly sysctl: Sysctl;
  readonly log: Logger;
}

const FAMILIES: readonly Family[] = [4, 6];

interface Change {
  readonly family: Family;
  readonly batch: readonly string[];
}

export interface LinuxClientRoutes extends ClientRoutes {
  /** Whatever is applied with `peerMtus` holds for every later policy too. */
  readonly peerMtus: PeerMtus;
}

/** Calls are done one after the other, in their order. */
export function linuxClientRoutes(deps: LinuxRoutesDeps): LinuxClientRoutes {
  const { exec, journal, identifiers, sysctl, log } = deps;
  const numbers = routeNumbers(identifiers);
  if (numbers === null) {
    throw new RoutesRefused(`Cannot make routes for "${identifiers.interface}": its role has none.`, {
      code: "no-routes",
    });
  }
  const queue = new SerialQueue();
  let mtus: readonly PeerMtu[] = [];
  let current: ClientRoutesPolicy | null = null;

  const planned = async (policy: ClientRoutesPolicy, family: Family, signal: AbortSignal): Promise<Change> => {
    const listed = await readLines(exec, { numbers, family, signal });
    const batch = listed === null ? [] : reconcile(wantedLines(policy, { numbers, family, mtus }), { listed, numbers });
    return { family, batch };
  };
  const change = async (policy: ClientRoutesPolicy, { family, batch }: Change, signal: AbortSignal): Promise<void> => {
    if (batch.length === 0) return;
    await journalBoth(journal);
    log.info({ family, policy: routesSentence(policy, family), batch }, "changing the routes");
    await runBatch(exec, { family, batch, signal });
  };

  const apply = async (policy: ClientRoutesPolicy, signal: AbortSignal): Promise<boolean> => {
    const [four, six] = await Promise.all([
      planned(policy, 4, signal),
      planned(policy, 6, signal),
      prepareKernel(sysctl, log),
    ]);
    await change(policy, four, signal);
    try {
      await change(policy, six, signal);
      return four.batch.length + six.batch.length > 0;
    } catch (thrown) {
      if (!isDisabledOnDevice(thrown)) throw thrown;
      // Somebody switched IPv6 off on all interfaces: nothing can enter the tunnel, and nothing shall pass outside.
      log.debug({ interface: policy.interface }, "no IPv6 on the tunnel's interface");
      const again = await planned(withoutDevice6(policy), 6, signal);
      await change(withoutDevice6(policy), again, signal);
      return four.batch.length + again.batch.length > 0;
    }
  };

  return {
    apply: (policy, signal) =>
      queue.run(() => {
        current = policy;
        return apply(policy, signal);
      }),

    verify: (signal) =>
      queue.run(async () => {
        const policy = current;
        if (policy === null) return [];
        const changes = await Promise.all(FAMILIES.map((family) => planned(policy, family, signal)));
        return changes.flatMap(({ family, batch }) => batch.map((line) => `Wants: ip -${family} ${line}.`));
      }),

    peerMtus: {
      apply: (peers, signal) =>
        queue.run(async () => {
          checkMtus(peers);
          mtus = peers;
          if (current !== null) await apply(current, signal);
        }),
    },

    reset: (signal) =>
      queue.run(async () => {
        current = null;
        await removeRulesAndRoutes(exec, identifiers, signal);
        await journal.remove({ kind: "ip-rules" });
        await journal.remove({ kind: "ip-routes" });
        await sysctl.restore();
      }),
  };
}

/** Removes every rule and route of the role by its fixed numbers, without memory. True when there were any. */
export async function removeRulesAndRoutes(
  exec: Exec,
  identifiers: Identifiers,
  signal: AbortSignal,
): Promise<boolean> {
  const numbers = routeNumbers(identifiers);
  if (numbers === null) return false;
  return await removeEach(FAMILIES, (family) => removeFamily(exec, { numbers, family, signal }));
}

async function removeFamily(exec: Exec, reading: Reading): Promise<boolean> {
  const list = async (): Promise<readonly string[]> => {
    const listed = await readLines(exec, reading);
    return listed === null ? [] : removal(listed, reading.numbers);
  };
  return await removeListed(list, (batch) => runBatch(exec, { ...reading, batch }));
}

/** The role's own, by its fixed numbers; none for a role that makes none. As `ip rule` and `ip route` take them. */
export async function listRulesAndRoutes(
  exec: Exec,
  identifiers: Identifiers,
  signal: AbortSignal,
): Promise<{ readonly rules: readonly string[]; readonly routes: readonly string[] }> {
  const numbers = routeNumbers(identifiers);
  const rules: string[] = [];
  const routes: string[] = [];
  for (const family of numbers === null ? [] : FAMILIES) {
    const listed = numbers === null ? null : await readLines(exec, { numbers, family, signal });
    rules.push(...(listed?.rules ?? []).map((line) => `ip -${family} rule ${line}`));
    routes.push(...(listed?.routes ?? []).map((line) => `ip -${family} route ${line} table ${numbers?.table}`));
  }
  return { rules, routes };
}

interface Reading {
  readonly numbers: RouteNumbers;
  readonly family: Family;
  readonly signal: AbortSignal;
}

/** Null when the kernel has no such family. */
async function readLines(exec: Exec, { numbers, family, signal }: Reading): Promise<RouteLines | null> {
  const flag = `-${family}`;
  const [rules, routes] = await Promise.all([
    exec.run(["ip", "-N", "-j", flag, "rule", "show"], { signal }),
    exec.run(["ip", "-N", "-j", flag, "route", "show", "table", String(numbers.table)], { signal }),
  ]);
  if (rules.code !== 0) {
    if (/not supported/i.test(rules.stderr)) return null;
    throw listFailed(`list the IPv${family} rules`, rules.stderr);
  }
  const noTable = /FIB table does not exist/.test(routes.stderr);
  if (routes.code !== 0 && !noTable) throw listFailed(`list the IPv${family} routes`, routes.stderr);
  return {
    rules: listedRules(parseJson(rules.stdout), numbers),
    routes: noTable ? [] : listedRoutes(parseJson(routes.stdout)),
  };
}

function listFailed(what: string, stderr: string): ToolFailed {
  return new ToolFailed(`Cannot ${what}: ${stderr.trim()}.`, { code: "tool-failed", detail: { stderr } });
}

/** Older versions of `ip` print nothing at all for an empty list. */
function parseJson(text: string): unknown {
  return text.trim() === "" ? [] : JSON.parse(text);
}

async function runBatch(
  exec: Exec,
  work: { readonly family: Family; readonly batch: readonly string[]; readonly signal: AbortSignal },
): Promise<void> {
  await output(exec, ["ip", `-${work.family}`, "-batch", "-"], {
    stdin: `${work.batch.join("\n")}\n`,
    signal: work.signal,
  });
}

async function journalBoth(journal: Journal): Promise<void> {
  for (const kind of ["ip-rules", "ip-routes"] as const) {
    if (!journal.entries().some((entry) => entry.kind === kind)) await journal.add({ kind });
  }
}

/** Values under which each of the settings does what we need; the first is the one that is written. */
const KERNEL: readonly (readonly [SysctlKey, readonly string[]])[] = [
  // The reverse path filter counts a packet's mark when it looks up the way back.
  ["net.ipv4.conf.all.src_valid_mark", ["1"]],
  // Nobody on the LAN learns the tunnel's address by asking for it (ip-sysctl: 1, 2 and 8 all keep quiet).
  ["net.ipv4.conf.all.arp_ignore", ["2", "1", "8"]],
];

/** A container may not write them; routing works without, so it goes on. */
async function prepareKernel(sysctl: Sysctl, log: Logger): Promise<void> {
  for (const [key, good] of KERNEL) {
    try {
      if (!good.includes((await sysctl.read(key)) ?? "")) await sysctl.set(key, good[0] ?? "");
    } catch (thrown) {
      log.warn({ key, value: good[0], error: errorText(thrown) }, "cannot write a kernel setting");
    }
  }
}

function isDisabledOnDevice(thrown: unknown): boolean {
  return thrown instanceof ToolFailed && /IPv6 is disabled on/.test(String(thrown.detail.stderr));
}

function withoutDevice6(policy: ClientRoutesPolicy): ClientRoutesPolicy {
  const tunnelPrefixes = policy.tunnelPrefixes.filter((prefix) => familyOf(prefix) === 4);
  const six = policy.families[6] === "own" ? "own" : "refuse";
  return { ...policy, families: { ...policy.families, 6: six }, tunnelPrefixes };
}

/** The policy for a person, before it is put in place. */
function routesSentence(policy: ClientRoutesPolicy, family: Family): string {
  const all = { tunnel: `goes into ${policy.interface}`, refuse: "is refused", own: "goes its own way" }[
    policy.families[family]
  ];
  const carrier = policy.carrier.map(formatEndpoint).join(", ") || "nothing";
  const local = policy.throwPrefixes.join(", ") || "nothing";
  return `All IPv${family} ${all}; the carrier reaches ${carrier} outside; ${local} stays local.`;
}
