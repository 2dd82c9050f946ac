// The peers' sizes where the main table leads to the tunnel: a route to each host that needs another size than the device's.
import { z } from "zod";
import { SerialQueue } from "../../base/async.ts";
import { cidrParts, type Family, familyOf } from "../../base/ip.ts";
import type { Logger } from "../../base/log.ts";
import { type Exec, output } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";
import { checkMtus, type PeerMtu, type PeerMtus } from "./peer-mtu.ts";

export interface HostMtusDeps {
  readonly exec: Exec;
  readonly identifiers: Pick<Identifiers, "interface">;
  readonly log: Logger;
}

const FAMILIES: readonly Family[] = [4, 6];
const ROUTES = z.array(
  z.looseObject({
    dst: z.string(),
    metrics: z.array(z.looseObject({ mtu: z.number().optional() })).optional(),
  }),
);

/** Wider prefixes than single hosts belong to the device and stay as they are. The routes go with the device: no journal needs them. */
export function hostMtus(deps: HostMtusDeps): PeerMtus {
  const queue = new SerialQueue();
  return {
    apply: (peers, signal) =>
      queue.run(async () => {
        checkMtus(peers);
        for (const family of FAMILIES) await applyFamily(deps, { peers, family }, signal);
      }),
  };
}

async function applyFamily(
  { exec, identifiers, log }: HostMtusDeps,
  wanted: { readonly peers: readonly PeerMtu[]; readonly family: Family },
  signal: AbortSignal,
): Promise<void> {
  const flag = `-${wanted.family}`;
  const device = ["dev", identifiers.interface] as const;
  const shown = await exec.run(["ip", "-j", flag, "route", "show", "table", "main", ...device], { signal });
  if (shown.code !== 0) return; // a kernel without IPv6, or no such device any more
  const listed = ROUTES.parse(JSON.parse(shown.stdout.trim() || "[]"));
  const lines = mtuLines(wanted, { listed, device: device.join(" ") });
  if (lines.length === 0) return;
  log.info({ family: wanted.family, lines }, "changing the size of packets to single peers");
  await output(exec, ["ip", flag, "-batch", "-"], { stdin: `${lines.join("\n")}\n`, signal });
}

/** Lines for `ip -batch`. A host's route with a size is ours; nobody else makes one on our interface. */
function mtuLines(
  wanted: { readonly peers: readonly PeerMtu[]; readonly family: Family },
  now: { readonly listed: z.infer<typeof ROUTES>; readonly device: string },
): readonly string[] {
  const sizes = new Map<string, number>();
  for (const { prefixes, mtu } of wanted.peers) {
    for (const prefix of prefixes) {
      const { address, length } = cidrParts(prefix);
      if (familyOf(prefix) === wanted.family && length === (wanted.family === 4 ? 32 : 128)) sizes.set(address, mtu);
    }
  }
  const there = new Map<string, number>();
  for (const { dst, metrics } of now.listed) {
    const mtu = metrics?.find((one) => one.mtu !== undefined)?.mtu;
    if (mtu !== undefined && !dst.includes("/")) there.set(dst, mtu);
  }
  return [
    ...[...there.keys()].filter((host) => !sizes.has(host)).map((host) => `route del ${host} ${now.device} table main`),
    ...[...sizes]
      .filter(([host, mtu]) => there.get(host) !== mtu)
      .map(([host, mtu]) => `route replace ${host} ${now.device} table main mtu ${mtu}`),
  ];
}
