// Opens the search for paths on this machine, for a node and a client alike.
import type { Logger } from "../base/log.ts";
import type { DiscoveryPort } from "../net/discovery/discovery.ts";
import type { MachineSystem } from "../net/system.ts";
import { takesBothFamilies } from "../net/wg/device.ts";
import type { Enrolment } from "../peer/enrolment.ts";
import type { Membership } from "../peer/membership.ts";
import { openPaths, type Paths } from "../peer/paths.ts";
import type { PathKind } from "../peer/path-info.ts";
import type { RouterAccess } from "../peer/router-port.ts";
import { mappingNonce } from "../peer/settings.ts";
import type { StateDir } from "../peer/state-dir.ts";

/** What the world sees as this machine's port, and where WireGuard listens. */
export interface MachinePorts {
  readonly public: number;
  readonly wireGuard: number;
  /** Null where a person, or the platform, allows nothing but the WebSocket. */
  readonly discovery: DiscoveryPort | null;
}

/** Where a bridge of ours has the machine's port, WireGuard listens at the next one. */
export async function machinePorts(
  os: Pick<MachineSystem, "discovery">,
  wanted: { readonly port: number; readonly allowed: readonly PathKind[] },
  signal: AbortSignal,
): Promise<MachinePorts> {
  const { port, allowed } = wanted;
  if (!allowed.includes("direct") && !allowed.includes("udp-relay")) {
    return { public: port, wireGuard: port, discovery: null };
  }
  const discovery = await os.discovery(signal);
  if (discovery === null) return { public: port, wireGuard: port, discovery };
  const inner = port === LAST_PORT ? port - 1 : port + 1;
  return { public: port, wireGuard: discovery.mechanism === "nft" ? port : inner, discovery };
}

const LAST_PORT = 65_535;

/** Null where a person allows nothing but the WebSocket. */
export function machinePaths(
  deps: { readonly os: MachineSystem; readonly membership: Membership; readonly log: Logger },
  options: {
    readonly enrolment: Enrolment;
    readonly allowed: readonly PathKind[];
    readonly ports: MachinePorts;
    readonly manual: string | null;
    readonly guessesPorts: boolean;
    /** Null where a person wants no port mapped. */
    readonly router: RouterAccess | null;
    readonly onChange: () => void;
  },
): ((wireGuardPort: number, signal: AbortSignal) => Promise<Paths>) | null {
  const { os, membership, log } = deps;
  const { manual, guessesPorts, router, onChange, ports } = options;
  const { discovery } = ports;
  const allowed = new Set(options.allowed);
  if (discovery === null) return null;
  const ranges = [options.enrolment.range4, options.enrolment.range6];
  return (wireGuardPort, signal) =>
    openPaths(
      {
        discovery: () => Promise.resolve(discovery),
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
        publicPort: ports.public,
        ranges,
        allowed,
        manual,
        guessesPorts,
        onChange,
        // Behind a bridge WireGuard sees nothing but loopback.
        ipv6: discovery.mechanism === "bridge" || takesBothFamilies(os.wireGuard.implementation()),
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
