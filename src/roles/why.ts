// Why a session uses the path that it uses, as a chain of causes from evidence, and what would mend it: pure.
import { formatEndpoint } from "../base/ip.ts";
import type { DiscoveryMechanism } from "../net/discovery/discovery.ts";
import type { PathView } from "../peer/path-agent.ts";
import { type PathInfo, isUsable } from "../peer/path-info.ts";
import { isSteady, type SideView, type Stage } from "../peer/side-plan.ts";
import type { RouterPortView } from "../peer/router-port.ts";
import type { NatView } from "../peer/stun-client.ts";
import type { Withheld } from "../proto/control.ts";
import type { Candidate } from "../proto/path.ts";

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
  /** What this machine's router was asked for, and gave; null while nothing is looked for. */
  readonly routerPort: RouterPortView | null;
  /** Where the peer says that it can be reached. */
  readonly told: readonly Candidate[];
  /** How WireGuard and discovery share a port here; null when they do not. */
  readonly sharing: DiscoveryMechanism | null;
  /** `performance.now()`. */
  readonly at: number;
}

export interface Explanation {
  readonly path: "direct" | "udp-relay" | "wss";
  readonly causes: readonly string[];
  readonly remedies: readonly string[];
}

export function explain(evidence: Evidence): Explanation {
  const { peer, view, withheld, proxy, sharing } = evidence;
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
  if (sharing === "bridge" && view.kind !== "wss") causes.push(BRIDGE_TEXT);
  const found = view.side?.found ?? null;
  if (view.kind === "direct") {
    if (found !== null) causes.push(foundText(found, view.side?.probes ?? 0));
    return { path: view.kind, causes, remedies: [] };
  }
  if (proxy !== null) causes.push(proxyText(proxy));
  causes.push(
    ...natCauses(evidence, view.kind),
    ...routerCauses(evidence.routerPort),
    ...toldCauses(peer, evidence.told),
  );
  const direct = view.tried.filter((info) => info.target.kind === "direct");
  if (direct.length === 0) causes.push(`${peer} has told no address that could be tried.`);
  const silent = direct.filter((info) => info.answeredAt === null && info.lostAt === null);
  const shown = direct.filter((info) => !silent.includes(info) || silent.indexOf(info) < MOST_SILENT);
  for (const info of shown) causes.push(triedText(info, evidence.at));
  if (direct.length > shown.length) causes.push(`${direct.length - shown.length} more addresses do not answer.`);
  if (view.side !== undefined) causes.push(...sideCauses(peer, view.side));
  if (isPeerBlocked(evidence, view)) {
    causes.push(
      `${peer} does not answer by the server's UDP relay either: UDP does not seem to get out of its network.`,
    );
    return { path: view.kind, causes, remedies: [`Let UDP out of ${peer}'s network, or use another one there.`] };
  }
  return { path: view.kind, causes, remedies: remediesFor(evidence, direct, view) };
}

/** A list of foreseen ports says nothing more than its length. */
const MOST_SILENT = 6;

function foundText(stage: Stage, probes: number): string {
  switch (stage) {
    case "fresh":
      return "Fresh ports at both ends opened the way, when the first ones had not.";
    case "predicted":
      return "A router that gives every destination another port was met at the port that it gives out next.";
    case "guessed":
      return `A router that gives every destination another port was met by guessing${probes > 0 ? `, after ${probes} ports` : ""}.`;
  }
}

function sideCauses(peer: string, side: SideView): string[] {
  const { own, tried, probes } = side;
  const causes: string[] = [];
  if (side.peer !== null && !isSteady(side.peer)) causes.push(`${peer}'s router gives every destination another port.`);
  if (own !== null && side.peer !== null && !isSteady(own) && !isSteady(side.peer)) {
    causes.push("With such a router at both ends no port can be guessed in reasonable time.");
    return causes;
  }
  if (tried.includes("fresh")) causes.push("Fresh ports at both ends did not help.");
  if (tried.includes("predicted")) causes.push("The ports that this router gives out next were foreseen, in vain.");
  if (probes > 0) causes.push(`${probes} ports of ${peer}'s router were guessed, in vain.`);
  else if (tried.includes("guessed")) causes.push(`Ports were opened for ${peer} to guess, in vain.`);
  if (mightGuess(side) && side.off === "here")
    causes.push("This machine guesses no ports: it was started with --no-port-guessing.");
  if (mightGuess(side) && side.off === "peer")
    causes.push(`${peer} guesses no ports: it was started with --no-port-guessing.`);
  return causes;
}

/** Just one end has a router of the kind for which ports are guessed. */
function mightGuess({ own, peer }: SideView): boolean {
  return own !== null && peer !== null && isSteady(own) !== isSteady(peer);
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

const BRIDGE_TEXT =
  "higgs itself passes every packet on (bridge), as nft does no work on this machine; with it the kernel would.";

function proxyText(proxy: string): string {
  return `This machine reaches the server through the proxy ${proxy}, which lets nothing but TCP through.`;
}

/** This machine's packets reach the server's UDP relay, or at least its STUN ports, and nothing of the peer's ever came by it. */
function isPeerBlocked({ nat, at }: Evidence, { kind, tried }: PathView): boolean {
  if (kind !== "wss" || nat?.udp !== true) return false;
  const relayed = tried.filter((info) => info.target.kind === "udp-relay");
  const isSilent = (info: PathInfo): boolean =>
    !isUsable(info, at) && info.answeredAt === null && info.lostAt === null && info.unanswered > 0;
  return relayed.length > 0 && relayed.every(isSilent);
}

function natCauses({ nat, proxy }: Evidence, kind: PathView["kind"]): string[] {
  if (nat === null && proxy !== null) {
    return ["The server cannot be asked how it sees this machine: the proxy alone knows the address behind its name."];
  }
  if (nat === null) return ["The server was not asked yet how it sees this machine."];
  if (!nat.udp && kind === "udp-relay") {
    return [
      "The server's STUN ports do not answer, though other UDP gets out: nobody can tell this machine's address.",
    ];
  }
  if (!nat.udp) return ["The server's STUN ports do not answer: UDP does not get out of this network."];
  const causes: string[] = [];
  if (nat.mapped4 !== null) causes.push(`The server sees this machine at ${formatEndpoint(nat.mapped4)}.`);
  if (nat.mapped6 !== null) causes.push(`The server sees this machine at ${formatEndpoint(nat.mapped6)}.`);
  if (nat.varies === true) {
    causes.push("This network's router gives every destination a port of its own.");
  }
  return causes;
}

function routerCauses(port: RouterPortView | null): string[] {
  switch (port?.state) {
    case "mapped":
      return [`This network's router forwards ${formatEndpoint(port.external)} to this machine (${port.protocol}).`];
    case "none":
      return [`This network's router at ${port.router} maps no port by PCP, NAT-PMP or UPnP.`];
    case "elsewhere":
      return [`This network's router offers ${formatEndpoint(port.external)}, by which nobody sees this machine.`];
    case "asking":
    case "no-router":
    case "off":
    case undefined:
      return [];
  }
}

function toldCauses(peer: string, told: readonly Candidate[]): string[] {
  return told.flatMap(({ kind, endpoint }) => {
    if (kind === "mapped") return [`The router of ${peer} says that it forwards ${endpoint} to it.`];
    return kind === "manual" ? [`Whoever set up ${peer} says that ${endpoint} is forwarded to it.`] : [];
  });
}

function triedText(info: PathInfo, at: number): string {
  const { key } = info.target;
  if (isUsable(info, at)) return `${key} answers in ${(info.rttMs ?? 0).toFixed(1)} ms.`;
  if (info.answeredAt !== null && info.sizeBytes === 0) return `${key} answers small packets, and full ones are lost.`;
  if (info.answeredAt !== null || info.lostAt !== null) return `${key} answered before, and does no more.`;
  return `${key} does not answer (${info.unanswered} checks).`;
}

function remediesFor({ peer, nat, proxy, told }: Evidence, direct: readonly PathInfo[], view: PathView): string[] {
  const side = view.side ?? null;
  if (view.kind === "wss" && (nat?.udp === false || (nat === null && proxy !== null))) {
    return ["Let UDP out of this network, or use another one."];
  }
  const remedies: string[] = [];
  if (nat?.udp === false) remedies.push("Let UDP out of this network to the server's ports 3478 and 3479.");
  if (side !== null && side.off !== null && mightGuess(side)) {
    remedies.push(`Start ${side.off === "here" ? "this machine" : peer} without --no-port-guessing.`);
  }
  if (direct.some((info) => info.answeredAt !== null && info.sizeBytes === 0)) {
    remedies.push(
      "Something on the way loses full-sized packets: lower the MTU of that line's router to what it can carry.",
    );
  }
  const forwarded = told.find(({ kind }) => kind === "mapped" || kind === "manual");
  if (forwarded === undefined) {
    remedies.push(
      `At ${peer}'s router, switch on UPnP, NAT-PMP or PCP; or forward one UDP port to it and start: higgs node --port N --endpoint HOST:N`,
    );
  } else {
    remedies.push(
      `See at ${peer}'s router whether UDP to ${forwarded.endpoint} is let in, and at this network's whether UDP to there is let out.`,
    );
  }
  return remedies;
}
