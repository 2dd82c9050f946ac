// What a connected client asks of the operating system, from the map, the sessions and the exit: pure.
import type { Cidr, Endpoint, IpAddress } from "../base/ip.ts";
import type { ClientFirewallPolicy } from "../net/firewall/client.ts";
import type { ClientRoutesPolicy } from "../net/routes/client-routes.ts";
import type { DnsPolicy } from "../net/dns/system-dns.ts";
import type { Session } from "../proto/control.ts";
import type { MachineId } from "../proto/keys.ts";
import type { KnownPeer } from "../peer/netmap.ts";
import { allowedPrefixes } from "../peer/trust.ts";
import type { TunnelPeer } from "../peer/tunnel.ts";

const ALL4 = "0.0.0.0/0" as Cidr;
const ALL6 = "::/0" as Cidr;

/** The families that leave by this exit: what its signed record offers and what it says it can do now. */
export function exitRoutes(exit: KnownPeer): Cidr[] {
  return exit.exit?.ipv6 === true ? [ALL4, ALL6] : [ALL4];
}

export function tunnelPeers(
  wanted: readonly KnownPeer[],
  exitId: MachineId | null,
  sessions: ReadonlyMap<MachineId, Session>,
): TunnelPeer[] {
  return wanted.map((peer) => ({
    id: peer.id,
    wireGuard: peer.machine.wireGuard,
    allowedIps: allowedPrefixes(peer.machine, peer.id === exitId ? exitRoutes(peer) : []),
    name: peer.name,
    session: sessions.get(peer.id) ?? null,
  }));
}

export interface SystemInputs {
  readonly interface: string;
  readonly uid: number;
  /** This client's tunnel addresses. */
  readonly addresses: readonly IpAddress[];
  readonly range4: Cidr;
  readonly range6: Cidr;
  /** What this process reaches by TCP past the tunnel: the server, and the router while it is asked for a port. */
  readonly carriers: readonly Endpoint[];
  /** The discovery socket's own port, which goes past the tunnel; null without one. */
  readonly discoveryPort: number | null;
  /** Bridges without an uplink: containers and virtual machines. */
  readonly localPrefixes: readonly Cidr[];
  readonly exit: KnownPeer | null;
}

export interface SystemPlan {
  readonly routes: ClientRoutesPolicy;
  readonly firewall: ClientFirewallPolicy;
  /** Null without an exit: the machine's own resolver stays. */
  readonly dns: DnsPolicy | null;
}

export function systemPlan(inputs: SystemInputs): SystemPlan {
  const { exit, uid } = inputs;
  const carrier = [...inputs.carriers].sort((a, b) => a.address.localeCompare(b.address) || a.port - b.port);
  const discovery = inputs.discoveryPort === null ? {} : { discoveryPort: inputs.discoveryPort };
  const common = { interface: inputs.interface, uid, carrier, ...discovery };
  const six = exit !== null && exitRoutes(exit).includes(ALL6) && exit.machine.routes.includes(ALL6);
  return {
    routes: {
      ...common,
      families: exit === null ? { 4: "own", 6: "own" } : { 4: "tunnel", 6: six ? "tunnel" : "refuse" },
      tunnelPrefixes: [inputs.range4, inputs.range6],
      throwPrefixes: inputs.localPrefixes,
    },
    firewall: { kind: "connected", ...common, addresses: inputs.addresses },
    dns: exit === null ? null : { interface: inputs.interface, servers: exit.machine.addresses },
  };
}
