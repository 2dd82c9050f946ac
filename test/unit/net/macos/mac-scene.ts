// A client of the fake Mac: its system as the roles get it, and what a connection does with it, in a connection's order.
import { join } from "node:path";
import { silentLogger } from "../../../../src/base/log.ts";
import type { ClientFirewallWanted } from "../../../../src/net/firewall/client.ts";
import { macSystems } from "../../../../src/net/os-macos.ts";
import type { ClientRoutesPolicy } from "../../../../src/net/routes/client-routes.ts";
import type { ClientSystem, Systems } from "../../../../src/net/system.ts";
import type { WireGuardConfig } from "../../../../src/net/wg/device.ts";
import { WIREGUARD_KEY, WIREGUARD_SECRET } from "../../support/keys.ts";
import { ALONE, OWN, TUNNEL } from "../firewall/client-policies.ts";
import { cidr, ip } from "../firewall/exit-policy.ts";
import type { FakeMac } from "./fake-mac.ts";

const { signal } = new AbortController();

const CONFIG: WireGuardConfig = {
  privateKey: WIREGUARD_SECRET,
  listenPort: 51820,
  addresses: [ip("10.83.0.2"), ip("fd83:1:2::2")],
  mtu: 1420,
  peers: [
    {
      publicKey: WIREGUARD_KEY,
      endpoint: { address: ip("127.0.0.1"), port: 40123 },
      allowedIps: [cidr("0.0.0.0/0"), cidr("::/0")],
      keepaliveS: 25,
    },
  ],
};

export const ROUTES: ClientRoutesPolicy = {
  interface: "higgs0",
  families: { 4: "tunnel", 6: "tunnel" },
  tunnelPrefixes: [cidr("10.83.0.0/16"), cidr("fd83:1:2::/48")],
  carrier: OWN.carrier,
  uid: 0,
  throwPrefixes: [],
};

export const DNS = { interface: "higgs0", servers: [ip("10.83.0.1"), ip("fd83:1:2::1")] };

const { discoveryPort: _, ...carrierOnly } = OWN;
/** On macOS the client runs as root, and has no discovery socket. */
export const OWN_MAC = { ...carrierOnly, uid: 0 };

export function wanted(kind: "connecting" | "connected", near = ALONE): ClientFirewallWanted {
  return { policy: { kind, tunnel: TUNNEL, own: OWN_MAC, near }, egress: [] };
}

export function systemsOf(mac: FakeMac): Systems {
  return macSystems({
    exec: mac,
    host: mac.host,
    requireRoot: () => Promise.resolve(),
    hasTool: () => true,
    lookMs: 1,
  });
}

export async function clientOf(mac: FakeMac, stateDir: string): Promise<ClientSystem> {
  return await systemsOf(mac).client({ ...optionsOf(stateDir), withoutFirewall: false });
}

export function optionsOf(stateDir: string) {
  return {
    stateDir,
    libexecDir: join(stateDir, "libexec"),
    wireGuard: "path" as const,
    command: "higgs client up",
    log: silentLogger,
  };
}

/** As client/connection.ts: under lockdown the firewall before anything else, routes and names once the exit has answered. */
export async function comeUp(os: ClientSystem, isLocked: boolean): Promise<void> {
  if (isLocked) await os.clientFirewall.apply(wanted("connecting"), signal);
  await os.wireGuard.apply(CONFIG, signal);
  await os.clientFirewall.apply(wanted("connected"), signal);
  await os.clientRoutes.apply(ROUTES, signal);
  await os.systemDns.apply(DNS, signal);
}

/** As roles/client.ts on the way down. */
export async function goDown(os: ClientSystem): Promise<readonly string[]> {
  await os.clientFirewall.apply({ policy: { kind: "disconnecting", near: ALONE }, egress: [] }, signal);
  return await os.undoAll(signal);
}
