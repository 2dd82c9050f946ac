// What a client's firewall is about to do, as one sentence for the log.
import { formatEndpoint } from "../../base/ip.ts";
import type { ClientFirewallPolicy, Nearby } from "./client.ts";

/** The policy for a person, before it is put in place. */
export function clientSentence(policy: ClientFirewallPolicy): string {
  switch (policy.kind) {
    case "disconnected":
      return "Nothing is closed.";
    case "exitless":
      return `Nothing is closed; the carrier reaches ${carrierText(policy)} past ${policy.tunnel.interface}.`;
    case "connecting":
    case "connected":
      return `Nothing leaves but by ${policy.tunnel.interface}; the carrier reaches ${carrierText(policy)}; ${nearText(policy.near)}.`;
    case "disconnecting":
    case "blocked":
      return `Nothing leaves; ${nearText(policy.near)}.`;
  }
}

function carrierText({ own }: Extract<ClientFirewallPolicy, { own: unknown }>): string {
  return own.carrier.map(formatEndpoint).join(", ") || "nothing";
}

function nearText({ bridges, lan }: Nearby): string {
  const local = bridges.length === 0 ? "" : ` and ${bridges.join(", ")}`;
  return lan === null ? `the LAN is closed${local === "" ? "" : `,${local} open`}` : `the LAN${local} open`;
}
