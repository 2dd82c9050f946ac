// Opens the search for paths on this machine, for a node and a client alike.
import type { Logger } from "../base/log.ts";
import type { MachineSystem } from "../net/os.ts";
import { takesBothFamilies } from "../net/wg/device.ts";
import type { Enrolment } from "../peer/enrolment.ts";
import type { Membership } from "../peer/membership.ts";
import { openPaths, type Paths } from "../peer/paths.ts";
import type { PathKind } from "../peer/path-info.ts";
import type { RouterAccess } from "../peer/router-port.ts";
import { mappingNonce } from "../peer/settings.ts";
import type { StateDir } from "../peer/state-dir.ts";

/** Null where a person allows nothing but the WebSocket. */
export function machinePaths(
  deps: { readonly os: MachineSystem; readonly membership: Membership; readonly log: Logger },
  options: {
    readonly enrolment: Enrolment;
    readonly allowed: readonly PathKind[];
    readonly manual: string | null;
    readonly guessesPorts: boolean;
    /** Null where a person wants no port mapped. */
    readonly router: RouterAccess | null;
    readonly onChange: () => void;
  },
): ((wireGuardPort: number, signal: AbortSignal) => Promise<Paths>) | null {
  const { os, membership, log } = deps;
  const { manual, guessesPorts, router, onChange } = options;
  const allowed = new Set(options.allowed);
  if (!allowed.has("direct") && !allowed.has("udp-relay")) return null;
  const ranges = [options.enrolment.range4, options.enrolment.range6];
  return (wireGuardPort, signal) =>
    openPaths(
      {
        discovery: os.discovery,
        redirect: os.redirect,
        device: os.wireGuard,
        peerMtus: os.peerMtus,
        readLinks: os.readLinks,
        send: (message) => membership.send(message),
        canRelay: (peer) => membership.relay.online && membership.map.get(peer)?.online === true,
        probeServer: (why) => membership.probe(why),
        stun: () => membership.stun,
        ...(router === null ? {} : { router }),
        log,
      },
      {
        wireGuardPort,
        ranges,
        allowed,
        manual,
        guessesPorts,
        onChange,
        ipv6: takesBothFamilies(os.wireGuard.implementation()),
      },
      signal,
    );
}

/** Null with `--no-port-mapping`. */
export async function routerAccess(
  os: MachineSystem,
  options: { readonly dir: StateDir; readonly portMapping: boolean },
): Promise<RouterAccess | null> {
  if (!options.portMapping) return null;
  return { mapPort: os.mapPort, nonce: await mappingNonce(options.dir) };
}
