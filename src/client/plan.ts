// What a connected client asks of the operating system, from the map, the sessions and the exit: pure.
import { type Cidr, cidrsOverlap, type Endpoint, type IpAddress } from "../base/ip.ts";
import type { ClientFirewallWanted, Nearby } from "../net/firewall/client.ts";
import { LAN_ALWAYS, type LocalNetworks } from "../net/local-networks.ts";
import { nearbyOf } from "../net/lock.ts";
import type { Lockdown } from "../net/lockdown-file.ts";
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
  /** WireGuard's own UDP port. */
  readonly wireGuardPort: number;
  readonly networks: LocalNetworks;
  /** What a person decided on the kill switch and the LAN. */
  readonly protection: Lockdown;
  readonly exit: KnownPeer | null;
}

export interface SystemPlan {
  readonly routes: ClientRoutesPolicy;
  readonly firewall: ClientFirewallWanted;
  /** Null without an exit: the machine's own resolver stays. */
  readonly dns: DnsPolicy | null;
}

export function systemPlan(inputs: SystemInputs): SystemPlan {
  const { exit, uid } = inputs;
  const carrier = sortedCarriers(inputs);
  const discovery = inputs.discoveryPort === null ? {} : { discoveryPort: inputs.discoveryPort };
  const six = exit !== null && exitRoutes(exit).includes(ALL6) && exit.machine.routes.includes(ALL6);
  const networks = withoutClash(inputs);
  return {
    routes: {
      interface: inputs.interface,
      uid,
      carrier,
      ...discovery,
      families: exit === null ? { 4: "own", 6: "own" } : { 4: "tunnel", 6: six ? "tunnel" : "refuse" },
      tunnelPrefixes: [inputs.range4, inputs.range6],
      throwPrefixes: [...networks.bridgePrefixes, ...(inputs.protection.lan ? lanPrefixes(networks) : [])],
    },
    firewall: firewallPlan(inputs, exit === null && !inputs.protection.lockdown ? "exitless" : "connected"),
    dns: exit === null ? null : { interface: inputs.interface, servers: exit.machine.addresses },
  };
}

/** What the firewall shall be while this client connects under lockdown, is connected, or has no exit. */
export function firewallPlan(
  inputs: Omit<SystemInputs, "exit">,
  kind: "connecting" | "connected" | "exitless",
): ClientFirewallWanted {
  const tunnel = { interface: inputs.interface, addresses: inputs.addresses };
  const own = {
    uid: inputs.uid,
    carrier: sortedCarriers(inputs),
    wireGuardPort: inputs.wireGuardPort,
    routers: inputs.networks.routers,
    ...(inputs.discoveryPort === null ? {} : { discoveryPort: inputs.discoveryPort }),
  };
  if (kind === "exitless") return { policy: { kind, tunnel, own }, egress: [] };
  const near: Nearby = nearbyOf(withoutClash(inputs), inputs.protection);
  return { policy: { kind, tunnel, own, near }, egress: inputs.protection.paranoid ? inputs.networks.outward : [] };
}

function sortedCarriers({ carriers }: Pick<SystemInputs, "carriers">): readonly Endpoint[] {
  return [...carriers].sort((a, b) => a.address.localeCompare(b.address) || a.port - b.port);
}

/** A LAN with the tunnel's own addresses is not to be had. */
function withoutClash({ networks, range4, range6 }: Omit<SystemInputs, "exit">): LocalNetworks {
  const lan = networks.lan.filter((prefix) => !cidrsOverlap(prefix, range4) && !cidrsOverlap(prefix, range6));
  return { ...networks, lan };
}

/** IPv6 keeps multicast in a table of its own, which comes before ours. */
function lanPrefixes({ lan }: LocalNetworks): readonly Cidr[] {
  return [...lan, ...LAN_ALWAYS.filter((prefix) => !prefix.startsWith("ff"))];
}
