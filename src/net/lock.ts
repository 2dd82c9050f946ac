// The kill switch without a connection: loads the blocked state from what is kept on disk, needing no daemon.
import { errorText } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { ClientFirewall, Nearby } from "./firewall/client.ts";
import { LAN_ALWAYS, type LocalNetworks, NOTHING_NEAR } from "./local-networks.ts";
import type { Lockdown } from "./lockdown-file.ts";

export interface LockDeps {
  readonly networks: (signal: AbortSignal) => Promise<LocalNetworks>;
  readonly firewall: ClientFirewall;
  readonly log: Logger;
}

/** What stays reachable, as a person decided. */
export function nearbyOf(networks: LocalNetworks, { lan }: Lockdown): Nearby {
  return { bridges: networks.bridges, lan: lan ? [...networks.lan, ...LAN_ALWAYS] : null };
}

/** Closes this machine. Before the network is up there is no LAN to allow yet: it is closed until a client connects. */
export async function loadBlocked(deps: LockDeps, lockdown: Lockdown, signal: AbortSignal): Promise<void> {
  const networks = await networksOrNone(deps, signal);
  const near = nearbyOf(networks, lockdown);
  const egress = lockdown.paranoid ? networks.outward : [];
  await deps.firewall.apply({ policy: { kind: "blocked", near }, egress }, signal);
}

/** None where they cannot be read just now: then everything is closed, which is what matters. */
export async function networksOrNone(
  { networks, log }: Pick<LockDeps, "networks" | "log">,
  signal: AbortSignal,
): Promise<LocalNetworks> {
  try {
    return await networks(signal);
  } catch (thrown) {
    signal.throwIfAborted();
    log.warn({ reason: errorText(thrown) }, "cannot read this machine's networks; the LAN stays closed");
    return NOTHING_NEAR;
  }
}
