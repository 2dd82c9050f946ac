// Sets the machine's DNS servers on the tunnel's link in systemd-resolved.
import { SerialQueue, sleep } from "../../base/async.ts";
import { parseIp } from "../../base/ip.ts";
import type { Logger } from "../../base/log.ts";
import { type Exec, type ExecResult, ToolMissing, ToolTimeout } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";
import type { Journal } from "../journal.ts";
import { isDomain, searchDomainsOf } from "./domains.ts";
import { DnsRefused } from "./errors.ts";
import type { DnsPolicy, SystemDns } from "./system-dns.ts";

export interface ResolvedDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly identifiers: Identifiers;
  readonly log: Logger;
}

/** Calls are done one after the other, in their order. Needs root, or polkit's leave for the user that higgs runs as. */
export function resolvedDns(deps: ResolvedDeps): SystemDns {
  const { exec, journal, identifiers, log } = deps;
  const queue = new SerialQueue();
  return {
    apply: (policy, signal) =>
      queue.run(async () => {
        const link = identifiers.interface;
        const missing: (readonly [string, ...string[]])[] = [];
        const claimed = await claimedDomains(exec, link, signal);
        for (const [verb, ...values] of linkSettings(policy, claimed)) {
          const said = await exec.run(["resolvectl", verb, link], { signal });
          if (said.code !== 0 || !saysAll(said.stdout, values)) missing.push(["resolvectl", verb, link, ...values]);
        }
        if (missing.length === 0) return;
        if (!journal.entries().some(isLinkEntry)) await journal.add({ kind: "resolved-link" });
        log.info({ servers: policy.servers, interface: link }, "setting the DNS servers in systemd-resolved");
        for (const argv of missing) {
          const result = await exec.run(argv, { signal });
          if (result.code === 0) continue;
          await revertResolved(exec, identifiers, signal); // all of it, or nothing
          await journal.remove({ kind: "resolved-link" });
          throw refused(link, result);
        }
      }),

    reset: (signal) =>
      queue.run(async () => {
        await revertResolved(exec, identifiers, signal);
        await journal.remove({ kind: "resolved-link" });
      }),
  };
}

/** Takes our settings off the link, without memory; a link or a resolved that is not there has none. True when it was done. */
export async function revertResolved(exec: Exec, identifiers: Identifiers, signal: AbortSignal): Promise<boolean> {
  const result = await tell(exec, ["resolvectl", "revert", identifiers.interface], signal);
  return result?.code === 0;
}

/** Null where there is nobody to tell, or nobody who answers in time: what is put back must not hang on a resolver that does. */
async function tell(exec: Exec, argv: readonly [string, ...string[]], signal: AbortSignal): Promise<ExecResult | null> {
  try {
    return (await resolvedRuns(exec, signal)) ? await tryTool(exec, argv, signal) : null;
  } catch (thrown) {
    if (thrown instanceof ToolTimeout) return null;
    throw thrown;
  }
}

/**
 * True when systemd-resolved runs; one that is just starting or stopping is waited for. Not asked over D-Bus, which would start
 * one that somebody stopped, and take a stop back that is under way.
 */
export async function resolvedRuns(exec: Exec, signal: AbortSignal): Promise<boolean> {
  const deadline = performance.now() + SETTLE_MS;
  for (;;) {
    const said = await tryTool(exec, ["systemctl", "is-active", "systemd-resolved.service"], signal);
    const state = said?.stdout.trim();
    if (state === undefined || !UNSETTLED.includes(state)) return state === "active";
    if (performance.now() > deadline) return false;
    await sleep(SETTLE_POLL_MS, signal);
  }
}

/** A restart passes through these without ever being inactive. */
const UNSETTLED: readonly string[] = ["activating", "deactivating", "reloading", "refreshing"];
const SETTLE_MS = 3_000;
const SETTLE_POLL_MS = 50;

/**
 * Makes resolved read /etc/resolv.conf now. It keeps the servers of a file that somebody else wrote until it has read another such
 * file, also when its own takes that one's place. Any question makes it look, and this one is sent to nobody.
 */
export async function makeResolvedRead(exec: Exec, signal: AbortSignal): Promise<void> {
  await tell(exec, ["resolvectl", "query", "--network=no", "--cache=no", "resolv-conf.higgs.example"], signal);
}

async function tryTool(
  exec: Exec,
  argv: readonly [string, ...string[]],
  signal: AbortSignal,
): Promise<ExecResult | null> {
  try {
    return await exec.run(argv, { signal });
  } catch (thrown) {
    if (thrown instanceof ToolMissing) return null;
    throw thrown;
  }
}

/**
 * `~.` sends every name to this link; without it resolved asks all links that have a default route. A network may claim names by
 * the domains that it hands out, which count for more: claimed here too, they are asked of this link as well, and the firewall sees
 * to it that no other answers.
 */
function linkSettings(policy: DnsPolicy, claimed: readonly string[]): readonly (readonly [string, ...string[]])[] {
  const own = searchDomainsOf(policy);
  return [
    ["dns", ...policy.servers],
    ["domain", "~.", ...own, ...claimed.filter((domain) => !own.includes(domain)).map((domain) => `~${domain}`)],
    ["default-route", "yes"],
  ];
}

/** As many as resolved keeps for a link (LINK_SEARCH_DOMAINS_MAX). */
const DOMAINS_LIMIT = 256;

/** The domains of all other links, from lines such as `Link 2 (eth0): lan ~corp.example`. */
async function claimedDomains(exec: Exec, link: string, signal: AbortSignal): Promise<readonly string[]> {
  const { stdout } = await exec.run(["resolvectl", "domain"], { signal });
  const lines = [...stdout.matchAll(/^(?:Global|Link \d+ \(([^)]*)\)):(.*)$/gm)].filter(([, name]) => name !== link);
  const domains = lines
    .flatMap(([, , said = ""]) => said.trim().split(/\s+/))
    .map((domain) => domain.replace(/^~/, ""));
  return [...new Set(domains)]
    .filter(isDomain)
    .sort()
    .slice(0, DOMAINS_LIMIT / 2);
}

/** From `Link 7 (higgs0): 10.64.0.1 fd64::1`, in any order. */
function saysAll(stdout: string, values: readonly string[]): boolean {
  const said = /^Link \d+ \([^)]*\):(.*)$/m.exec(stdout)?.[1]?.trim() ?? "";
  return canonical(said === "" ? [] : said.split(/\s+/)) === canonical(values);
}

function canonical(values: readonly string[]): string {
  return values
    .map((value) => parseIp(value) ?? value)
    .sort()
    .join(" ");
}

function isLinkEntry(entry: { readonly kind: string }): boolean {
  return entry.kind === "resolved-link";
}

function refused(link: string, result: ExecResult): DnsRefused {
  return new DnsRefused(`Cannot set the DNS servers of "${link}" in systemd-resolved: ${result.stderr.trim()}.`, {
    code: "resolved-refused",
    remedy:
      "Run as root, or let polkit allow org.freedesktop.resolve1.set-dns-servers, set-domains and set-default-route.",
    detail: { code: result.code, stderr: result.stderr },
  });
}
