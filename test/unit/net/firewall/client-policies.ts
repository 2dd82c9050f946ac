// The client's firewall in each of its situations, as golden files have them.
import type { ClientFirewallPolicy, Nearby, OwnTraffic, TunnelEnd } from "../../../../src/net/firewall/client.ts";
import { LAN_ALWAYS } from "../../../../src/net/local-networks.ts";
import { cidr, ip } from "./exit-policy.ts";

export const TUNNEL: TunnelEnd = { interface: "higgs0", addresses: [ip("10.83.0.2"), ip("fd83:1:2::2")] };
export const OWN: OwnTraffic = {
  uid: 997,
  carrier: [
    { address: ip("203.0.113.10"), port: 443 },
    { address: ip("2001:db8:10::10"), port: 8443 },
  ],
  wireGuardPort: 51820,
  discoveryPort: 51821,
  routers: [ip("192.168.7.1")],
};
export const ALONE: Nearby = { bridges: [], lan: null };
const AT_HOME: Nearby = {
  bridges: ["virbr0", "docker0"],
  lan: [cidr("192.168.7.0/24"), cidr("fd66:1::/64"), ...LAN_ALWAYS],
};

/** By the name of the golden file. */
export const POLICIES: Readonly<Record<string, ClientFirewallPolicy>> = {
  exitless: { kind: "exitless", tunnel: TUNNEL, own: OWN },
  connecting: { kind: "connecting", tunnel: TUNNEL, own: OWN, near: ALONE },
  connected: { kind: "connected", tunnel: TUNNEL, own: OWN, near: ALONE },
  "connected-lan": { kind: "connected", tunnel: TUNNEL, own: OWN, near: AT_HOME },
  disconnecting: { kind: "disconnecting", near: ALONE },
  blocked: { kind: "blocked", near: ALONE },
  "blocked-lan": { kind: "blocked", near: AT_HOME },
};
