// The cables of the lab as text for `ip -batch`: bridges, veth pairs, addresses and routes. Pure.
import { createHash } from "node:crypto";
import type { HostSpec, LineSpec, Segment, Topology } from "./topology.ts";

/** A bridge for each segment, all in the one namespace of the switches. */
export function segmentBatch(segments: readonly Segment[]): string {
  // No spanning tree, hence no delay; no snooping, hence no multicast that is lost before a querier shows up.
  const lines = segments.flatMap(({ name }) => [
    `link add ${name} type bridge stp_state 0 mcast_snooping 0`,
    `link set ${name} up`,
  ]);
  return batch(lines);
}

/** The two TAP devices between which a long line's packets wait: the one on the host's side, and the one on the segment's. */
export interface LongLine extends LineSpec {
  readonly near: string;
  readonly far: string;
}

/** In the order of hosts and interfaces. */
export function longLines(topology: Topology): readonly LongLine[] {
  return topology.hosts.flatMap((host) =>
    host.interfaces.flatMap((link, index) => {
      if (link.line === undefined) return [];
      const { near, far } = lineNames(topology, host, index);
      return [{ ...link.line, near, far }];
    }),
  );
}

/** For the switches' namespace: a bridge of its own for the host's end of each long line, and its other end on the segment. */
export function lineBatch(topology: Topology): string {
  return batch(
    topology.hosts.flatMap((host) =>
      host.interfaces.flatMap((link, index) => {
        if (link.line === undefined) return [];
        const { bridge, near, far } = lineNames(topology, host, index);
        return [
          `link add ${bridge} type bridge stp_state 0 mcast_snooping 0`,
          `link set ${bridge} up`,
          `tuntap add dev ${near} mode tap`,
          `link set ${near} master ${bridge} up`,
          `tuntap add dev ${far} mode tap`,
          `link set ${far} master ${link.segment} up`,
        ];
      }),
    ),
  );
}

function lineNames(topology: Topology, host: HostSpec, index: number): { bridge: string; near: string; far: string } {
  const place = `${topology.hosts.indexOf(host)}-${index}`;
  return { bridge: `l${place}`, near: `n${place}`, far: `f${place}` };
}

/** For the switches' namespace: a cable from each of the host's interfaces to its segment. `pid` is the host's first process. */
export function cableBatch(topology: Topology, host: HostSpec, pid: number): string {
  const lines = host.interfaces.map((link, index) => {
    const address = macAddress(host.name, link.name);
    const port = portName(topology, host, index);
    const segment = link.line === undefined ? link.segment : lineNames(topology, host, index).bridge;
    return `link add ${port} master ${segment} up type veth peer name ${link.name} address ${address} netns ${pid}`;
  });
  return batch(lines);
}

/** Takes the host's cables out of the switches; a cable whose host is gone may be gone already. */
export function uncableBatch(topology: Topology, host: HostSpec): string {
  return batch(host.interfaces.map((_link, index) => `link del ${portName(topology, host, index)}`));
}

/** For the host's own namespace. */
export function addressBatch(host: HostSpec): string {
  const lines = ["link set lo up"];
  for (const link of host.interfaces) {
    lines.push(`link set ${link.name} up`);
    if (link.ipv4 !== undefined) lines.push(`addr add ${link.ipv4} brd + dev ${link.name}`);
    for (const address of link.ipv6 ?? []) lines.push(`addr add ${address} dev ${link.name} nodad`);
  }
  for (const route of host.routes) {
    const to = route.to === "default4" ? "0.0.0.0/0" : route.to === "default6" ? "::/0" : route.to;
    lines.push(`route add ${to} via ${route.via}`);
  }
  return batch(lines);
}

/** Locally administered, and the same after every boot, as a real card's is. */
export function macAddress(host: string, link: string): string {
  const digest = createHash("sha256").update(`${host} ${link}`).digest();
  return ["02", ...[0, 1, 2, 3, 4].map((index) => digest.subarray(index, index + 1).toString("hex"))].join(":");
}

/** The switch's end of a cable. Host names are too long for an interface's 15 characters. */
export function portName(topology: Topology, host: HostSpec, index: number): string {
  return `p${topology.hosts.indexOf(host)}-${index}`;
}

function batch(lines: readonly string[]): string {
  return lines.map((line) => `${line}\n`).join("");
}
