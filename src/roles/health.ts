// Health entries: what a person should know, with a stable code, how bad it is, and what mends it.
import type { HiggsError } from "../base/errors.ts";
import { type Platform, platformOf, untestedText } from "../net/platform.ts";
import type { MachineSystem } from "../net/system.ts";
import type { Membership } from "../peer/membership.ts";
import type { MachineId } from "../proto/keys.ts";

export interface HealthEntry {
  readonly code: string;
  readonly severity: "low" | "medium" | "high";
  readonly text: string;
  readonly remedy: string | null;
}

export function healthOf(trouble: HiggsError, severity: HealthEntry["severity"]): HealthEntry {
  return { code: trouble.code, severity, text: trouble.message, remedy: trouble.remedy ?? null };
}

/** Nothing but a person mends these: the machine was removed, as it is told at once and at each attempt to come back. */
const GONE: ReadonlySet<string> = new Set(["machine-revoked", "machine-unknown"]);

/** What the membership says: the server away, and what it told that was not believed. */
export function membershipHealth(membership: Membership): HealthEntry[] {
  const entries: HealthEntry[] = membership.map.refusals().map((refusal) => ({ ...refusal, severity: "high" }));
  const { trouble } = membership;
  // A map that was refused is both.
  if (trouble !== null && entries.every((entry) => entry.code !== trouble.code)) {
    entries.unshift(healthOf(trouble, GONE.has(trouble.code) ? "high" : "medium"));
  }
  if (membership.welcomed && !membership.relay.online) {
    entries.push({
      code: "relay-lost",
      severity: "medium",
      text: "The connection to the relay is down; it is being dialled.",
      remedy: null,
    });
  }
  return entries;
}

/** As long as nobody has seen higgs at work on this platform, it says so itself. */
export function platformHealth(platform: Platform | null = platformOf()): HealthEntry[] {
  const text = untestedText(platform);
  return text === null ? [] : [{ code: "platform-untested", severity: "low", text, remedy: null }];
}

/** What is not there where neither nft nor iptables does any work. */
export function firewallHealth(
  { firewallTrouble }: Pick<MachineSystem, "firewallTrouble">,
  without: string,
): HealthEntry[] {
  if (firewallTrouble === null) return [];
  return [{ ...healthOf(firewallTrouble, "medium"), text: `${firewallTrouble.message} Without it ${without}.` }];
}

/** Sessions that no relay of the server carries: a person notices those that have no direct path. */
export function relayHealth(
  membership: Pick<Membership, "sessions" | "map">,
  pathOf: (peer: MachineId) => "direct" | "udp-relay" | "wss",
): HealthEntry[] {
  return [...membership.sessions.values()].flatMap(({ peer, withheld }) => {
    if (withheld === undefined || pathOf(peer) === "direct") return [];
    const name = membership.map.get(peer)?.name ?? peer;
    return [
      {
        code: withheld.code,
        severity: "high" as const,
        text: `Packets to "${name}" wait for a direct path: the server relays none, as ${withheld.text}.`,
        remedy: `The relay is back at ${new Date(withheld.untilMs).toISOString()}; what would make a direct path: higgs why ${name}`,
      },
    ];
  });
}
