// What a person should know of a resolv.conf that somebody else wrote while the tunnel is up: whom it names, and whether they answer there.
import { type Cidr, cidrContains, parseIp } from "../base/ip.ts";
import { LAN_ALWAYS, type LocalNetworks } from "../net/local-networks.ts";
import type { HealthEntry } from "./health.ts";

export interface NamesAround {
  /** True where a person allowed the LAN: then its addresses are not in the tunnel, and its port 53 is closed. */
  readonly lan: boolean;
  readonly networks: Pick<LocalNetworks, "lan">;
}

/** As one sentence; `servers` are those of a file that is not ours. */
export function foreignNamesText(servers: readonly string[]): string {
  const whom = servers.length === 0 ? "nobody" : servers.join(", ");
  return `Names are asked of ${whom}: somebody else wrote /etc/resolv.conf, and it stays theirs.`;
}

/** None while one of them is reached: what goes into the tunnel is answered by the exit, whoever is asked. */
export function namesHealth(servers: readonly string[] | null, around: NamesAround): HealthEntry[] {
  if (servers === null || servers.some((server) => isReached(server, around))) return [];
  const why = servers.length === 0 ? "" : " These are closed while the tunnel is up, so that no name leaves beside it.";
  return [
    {
      code: "names-closed",
      severity: "high",
      text: `No name is found. ${foreignNamesText(servers)}${why}`,
      remedy:
        "higgs client down && higgs client up, which sets the tunnel's servers and puts this file back in the end",
    },
  ];
}

function isReached(server: string, { lan, networks }: NamesAround): boolean {
  const address = parseIp(server);
  if (address === null) return false; // with an interface behind it: a neighbour's
  const closed: readonly Cidr[] = lan ? [...networks.lan, ...LAN_ALWAYS] : LINK_LOCAL;
  return !closed.some((prefix) => cidrContains(prefix, address));
}

const LINK_LOCAL = ["169.254.0.0/16", "fe80::/10"] as unknown as readonly Cidr[];
