// What `higgs node status` shows.
import type { MachineSystem } from "../net/system.ts";
import { switchOff } from "../net/routes/rules-before.ts";
import { letPass } from "../net/firewall/foreign.ts";
import { implementationText } from "../net/wg/device.ts";
import type { DnsCounters } from "../node/dns-answers.ts";
import type { Exit } from "../node/exit.ts";
import { type ExitRules, termsOf } from "../node/exit-rules.ts";
import type { EnrolmentStore } from "../peer/enrolment.ts";
import type { Membership } from "../peer/membership.ts";
import type { Tunnel } from "../peer/tunnel.ts";
import type { Config } from "./config.ts";
import { type HealthEntry, membershipHealth, firewallHealth, platformHealth, relayHealth } from "./health.ts";
import { portMappingOf } from "./port-mapping-status.ts";
import { VERSION } from "./version.ts";

export interface NodeView {
  readonly config: Config<"node">;
  readonly os: MachineSystem;
  readonly store: EnrolmentStore;
  readonly joined: Membership;
  readonly exit: Exit;
  readonly tunnel: Tunnel;
  readonly startedAt: Date;
  readonly shown: () => {
    readonly rules: ExitRules;
    readonly recordDir: string;
    readonly resolver: DnsCounters | null;
  };
}

export async function nodeStatus(view: NodeView, signal: AbortSignal) {
  const { store, joined, exit, tunnel } = view;
  const stats = await tunnel.stats(signal);
  const { rules, recordDir, resolver } = view.shown();
  const uplink = exit.links?.uplinks.find((one) => one.family === 4) ?? null;
  return {
    schema: "higgs.node-status/1",
    version: VERSION,
    state: joined.control.online ? "connected" : "connecting",
    name: store.value.name,
    server: store.value.servers[0]?.name ?? null,
    tunnel: {
      interface: view.os.identifiers.interface,
      ipv4: store.value.ipv4,
      ipv6: store.value.ipv6,
      implementation: implementationText(view.os.wireGuard.implementation()),
    },
    exit: {
      enabled: exit.state !== null,
      ready: exit.state?.ready ?? false,
      ipv6: exit.state?.ipv6 ?? false,
      interface: uplink?.interface ?? null,
      publicAddress: joined.observedAddress,
      endpoint: view.config.endpoint,
      policy: termsOf(rules, { filtersNames: view.config.dnsBlock.length > 0 }),
      record: rules.logDays === 0 ? null : recordDir,
    },
    resolver,
    portMapping: portMappingOf(tunnel.paths),
    clients: tunnel.peers().map((peer) => {
      const stat = stats.find((one) => one.publicKey === peer.wireGuard);
      return {
        name: joined.map.get(peer.id)?.name ?? peer.id,
        path: tunnel.paths?.view(peer.id)?.kind ?? "wss",
        rxBytes: stat?.rxBytes ?? 0,
        txBytes: stat?.txBytes ?? 0,
        lastHandshake: isoOf(stat?.lastHandshakeMs ?? null),
      };
    }),
    sharing: tunnel.paths?.mechanism ?? null,
    relay: { online: joined.relay.online, ...joined.relay.counters },
    startedAt: view.startedAt.toISOString(),
    health: nodeHealth(view),
  };
}

function nodeHealth(view: NodeView): HealthEntry[] {
  const entries = [
    ...membershipHealth(view.joined),
    ...relayHealth(view.joined, (peer) => view.tunnel.paths?.view(peer)?.kind ?? "wss"),
  ];
  if (view.exit.state === null) {
    for (const text of view.exit.breaches) entries.push({ code: "not-isolated", severity: "high", text, remedy: null });
  }
  for (const text of view.exit.state?.missing ?? []) {
    const remedy = letPass(text, view.os.identifiers.interface) ?? switchOff(text);
    entries.push({ code: "exit-not-ready", severity: "high", text, remedy });
  }
  entries.push(...firewallHealth(view.os, WITHOUT_FIREWALL), ...platformHealth());
  return entries;
}

const WITHOUT_FIREWALL =
  "machines in session with this one reach its own services, and higgs itself passes every packet of a direct path on, which costs speed";

export function isoOf(ms: number | null): string | null {
  return ms === null ? null : new Date(ms).toISOString();
}
