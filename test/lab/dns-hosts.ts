// What the tests of DNS share: queries from a lab host to any server, and what the lab's own server was asked.
import type { DnsStats } from "../../src/lab/dns-server.ts";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";

export interface DnsProbe {
  readonly protocol: "udp" | "tcp";
  readonly server: string;
  readonly port: number;
  readonly name: string;
  readonly type: string;
  readonly waitMs: number;
}

export interface DnsAnswer {
  /** "" when an answer came, else "silence" or the kernel's word for what went wrong. */
  readonly failure: string;
  readonly code: string;
  readonly truncated: boolean;
  readonly data: readonly string[];
  /** Length of the message. */
  readonly bytes: number;
}

/** Longer than any answer takes in the lab, also on a busy machine; the probes of a call wait side by side. */
const WAIT_MS = 4000;

export function dns(protocol: "udp" | "tcp", server: string, name: string, more: Partial<DnsProbe> = {}): DnsProbe {
  return { protocol, server, port: 53, name, type: "A", waitMs: WAIT_MS, ...more };
}

/** All at once; the answers are in the order of the probes. */
export async function askDns(host: LabHost, probes: readonly DnsProbe[]): Promise<readonly DnsAnswer[]> {
  const argv = ["/usr/local/bin/bun", "/usr/local/bin/dns-probe.js", JSON.stringify(probes)];
  return JSON.parse(await host.execOrThrow(argv)) as DnsAnswer[];
}

/** What the lab's DNS server was asked since the last `forgetQueries`. */
export async function dnsStats(lab: Lab): Promise<DnsStats> {
  return JSON.parse(await lab.host("dns").execOrThrow(["curl", "-sS", "http://203.0.113.53/stats"])) as DnsStats;
}

export async function forgetQueries(lab: Lab): Promise<void> {
  await lab.host("dns").execOrThrow(["curl", "-sS", "-X", "DELETE", "http://203.0.113.53/stats"]);
}
