// The server's figures in the text format of Prometheus, for the local socket only.
import type { RequestCounts } from "./api/request-counts.ts";
import type { Fleet } from "./fleet.ts";
import type { Loads } from "./load.ts";
import type { StunCounters } from "./stun.ts";
import type { UdpRelay } from "./udp-relay/service.ts";

export interface Figures {
  readonly fleet: Fleet;
  readonly loads: Loads;
  readonly requests: RequestCounts;
  readonly stun: Readonly<StunCounters> | null;
  readonly udpRelay: Pick<UdpRelay, "kernel" | "sessions" | "bytes" | "forwarded"> | null;
  readonly uptimeS: number;
}

type Sample = readonly [labels: Readonly<Record<string, string | number>>, value: number];

/** Labels are names, roles, routes and reasons of a fixed set: their number is bounded by that of the machines. */
export function prometheusText(figures: Figures): string {
  const { fleet, loads, requests, stun, udpRelay } = figures;
  const { counters } = fleet.relay;
  const machines = [...fleet.directory.all()];
  const nodes = machines.filter((machine) => machine.role === "node");
  const loadOf = (figure: "latency" | "cpuUsage" | "memoryUsage"): Sample[] =>
    nodes.flatMap((node): Sample[] => {
      const value = loads.of(node.id)?.metrics[figure];
      return value === undefined ? [] : [[{ node: node.name }, value]];
    });
  const count = (role: string, online: boolean): number =>
    machines.filter((machine) => machine.role === role && fleet.presence.of(machine.id).online === online).length;
  const blocks = [
    block("higgs_server_uptime_seconds", "gauge", "Time since the start.", [[{}, figures.uptimeS]]),
    block(
      "higgs_server_machines",
      "gauge",
      "Enrolled machines.",
      ["node", "client"].flatMap((role): Sample[] => [
        [{ role, online: "true" }, count(role, true)],
        [{ role, online: "false" }, count(role, false)],
      ]),
    ),
    block("higgs_server_control_connections", "gauge", "Open control streams.", [[{}, fleet.hub.size]]),
    block("higgs_server_control_malformed_total", "counter", "Control streams closed for what they sent.", [
      [{}, fleet.hub.malformedCount],
    ]),
    block("higgs_server_sessions", "gauge", "Sessions that the relay forwards for.", [[{}, fleet.sessions.size]]),
    block("higgs_server_relay_connections", "gauge", "Open relay connections.", [[{}, fleet.relay.connections]]),
    block("higgs_server_relay_frames_total", "counter", "Frames passed on.", [[{}, counters.frames]]),
    block("higgs_server_relay_packets_total", "counter", "Packets passed on.", [[{}, counters.packets]]),
    block("higgs_server_relay_bytes_total", "counter", "Bytes passed on.", [[{}, counters.bytes]]),
    block(
      "higgs_server_relay_dropped_frames_total",
      "counter",
      "Frames that were not passed on.",
      Object.entries(counters.dropped).map(([reason, value]): Sample => [{ reason }, value]),
    ),
    block(
      "higgs_server_machine_relayed_bytes",
      "gauge",
      "Relayed for the machine, both ways, in the quota's running span.",
      machines.map(({ id, name }): Sample => [{ machine: name }, fleet.meter.usageOf(id).bytes]),
    ),
    block(
      "higgs_server_api_requests_total",
      "counter",
      "Requests answered.",
      requests.all().map(({ route, status, count: value }): Sample => [{ route, status }, value]),
    ),
    block("higgs_server_node_latency_milliseconds", "gauge", "As the node last said.", loadOf("latency")),
    block("higgs_server_node_cpu_usage_percent", "gauge", "As the node last said.", loadOf("cpuUsage")),
    block("higgs_server_node_memory_usage_percent", "gauge", "As the node last said.", loadOf("memoryUsage")),
  ];
  if (stun !== null) {
    blocks.push(
      block(
        "higgs_server_stun_datagrams_total",
        "counter",
        "STUN datagrams by what became of them.",
        Object.entries(stun).map(([result, value]): Sample => [{ result }, value]),
      ),
    );
  }
  if (udpRelay !== null) {
    const { forwarded } = udpRelay;
    blocks.push(
      block("higgs_server_udp_relay_kernel", "gauge", "1 while the kernel relays.", [[{}, udpRelay.kernel ? 1 : 0]]),
      block("higgs_server_udp_relay_sessions", "gauge", "Sessions with a UDP port.", [[{}, udpRelay.sessions]]),
      block("higgs_server_udp_relay_bytes_total", "counter", "Bytes relayed over UDP.", [[{}, udpRelay.bytes]]),
      block(
        "higgs_server_udp_relay_dropped_packets_total",
        "counter",
        "Packets that reached the process and were not passed on.",
        Object.entries(forwarded.dropped).map(([reason, value]): Sample => [{ reason }, value]),
      ),
    );
  }
  return blocks.join("");
}

function block(name: string, type: "gauge" | "counter", help: string, samples: readonly Sample[]): string {
  const lines = samples.map(([labels, value]) => {
    const entries = Object.entries(labels).map(([key, text]) => `${key}="${escaped(String(text))}"`);
    return `${name}${entries.length === 0 ? "" : `{${entries.join()}}`} ${value}\n`;
  });
  return `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${lines.join("")}`;
}

/** Text format 0.0.4. */
function escaped(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}
