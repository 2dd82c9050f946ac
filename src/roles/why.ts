// Why a session uses the path that it uses, as a chain of causes from evidence, and what would mend it: pure.
import { formatEndpoint } from "../base/ip.ts";
import type { PathView } from "../peer/path-agent.ts";
import { type PathInfo, isUsable } from "../peer/path-info.ts";
import type { NatView } from "../peer/stun-client.ts";
import type { Withheld } from "../proto/control.ts";

export interface Evidence {
  readonly peer: string;
  /** Null: no session with the peer, or this machine stays on the relay. */
  readonly view: PathView | null;
  /** Null: no server was asked yet. */
  readonly nat: NatView | null;
  /** Why no relay of the server carries the session; null while they do. */
  readonly withheld: Withheld | null;
  /** The HTTP proxy before the server, as people name it. */
  readonly proxy: string | null;
  /** `performance.now()`. */
  readonly at: number;
}

export interface Explanation {
  readonly path: "direct" | "udp-relay" | "wss";
  readonly causes: readonly string[];
  readonly remedies: readonly string[];
}

export function explain(evidence: Evidence): Explanation {
  const { peer, view, nat, withheld, proxy } = evidence;
  if (view === null) {
    return {
      path: "wss",
      causes: [
        `Packets to ${peer} go through the server's WebSocket: no other path is looked for.`,
        ...withheldCauses(withheld, "wss"),
      ],
      remedies: ["Start with --paths direct,udp-relay,wss, and check that the server is of this version."],
    };
  }
  const causes = [currentText(peer, view), ...withheldCauses(withheld, view.kind)];
  if (view.kind === "direct") return { path: view.kind, causes, remedies: [] };
  if (proxy !== null) causes.push(proxyText(proxy));
  causes.push(...natCauses(nat, proxy));
  const direct = view.tried.filter((info) => info.target.kind === "direct");
  if (direct.length === 0) causes.push(`${peer} has told no address that could be tried.`);
  for (const info of direct) causes.push(triedText(info, evidence.at));
  return { path: view.kind, causes, remedies: remediesFor(peer, nat, direct) };
}

function currentText(peer: string, view: PathView): string {
  const by = view.endpoint === null ? "" : ` by ${formatEndpoint(view.endpoint)}`;
  const rtt = view.rttMs === null ? "" : `, round trip ${view.rttMs.toFixed(1)} ms`;
  switch (view.kind) {
    case "direct":
      return `Packets to ${peer} go directly${by}${rtt}: ${view.reason}.`;
    case "udp-relay":
      return `Packets to ${peer} go through the server's UDP relay${by}${rtt}: ${view.reason}.`;
    case "wss":
      return `Packets to ${peer} go through the server's WebSocket: ${view.reason}.`;
  }
}

function withheldCauses(withheld: Withheld | null, path: Explanation["path"]): string[] {
  if (withheld === null) return [];
  const what = path === "direct" ? "Should that end, nothing carries them" : "No relay of the server carries them";
  return [`${what} until ${new Date(withheld.untilMs).toISOString()}: ${withheld.text}.`];
}

function proxyText(proxy: string): string {
  return `This machine reaches the server through the proxy ${proxy}, which lets nothing but TCP through.`;
}

function natCauses(nat: NatView | null, proxy: string | null): string[] {
  if (nat === null && proxy !== null) {
    return ["The server cannot be asked how it sees this machine: the proxy alone knows the address behind its name."];
  }
  if (nat === null) return ["The server was not asked yet how it sees this machine."];
  if (!nat.udp) return ["The server's STUN ports do not answer: UDP does not get out of this network."];
  const causes: string[] = [];
  if (nat.mapped4 !== null) causes.push(`The server sees this machine at ${formatEndpoint(nat.mapped4)}.`);
  if (nat.mapped6 !== null) causes.push(`The server sees this machine at ${formatEndpoint(nat.mapped6)}.`);
  if (nat.varies === true) {
    causes.push("This network's router gives every destination a port of its own, which nobody can foresee.");
  }
  return causes;
}

function triedText(info: PathInfo, at: number): string {
  const { key } = info.target;
  if (isUsable(info, at)) return `${key} answers in ${(info.rttMs ?? 0).toFixed(1)} ms.`;
  if (info.answeredAt !== null && info.sizeBytes === 0) return `${key} answers small packets, and full ones are lost.`;
  if (info.answeredAt !== null || info.lostAt !== null) return `${key} answered before, and does no more.`;
  return `${key} does not answer (${info.unanswered} checks).`;
}

function remediesFor(peer: string, nat: NatView | null, direct: readonly PathInfo[]): string[] {
  if (nat !== null && !nat.udp) return ["Let UDP out of this network, or use another one."];
  const remedies = [
    `At ${peer}'s router, switch on UPnP, NAT-PMP or PCP; or forward one UDP port to it and start: higgs node --port N --endpoint HOST:N`,
  ];
  if (direct.some((info) => info.answeredAt !== null && info.sizeBytes === 0)) {
    remedies.unshift(
      "Something on the way loses full-sized packets: lower the MTU of that line's router to what it can carry.",
    );
  }
  return remedies;
}
