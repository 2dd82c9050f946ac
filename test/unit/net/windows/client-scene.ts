// A client on the Windows machine in memory: each step of its life, through the interfaces that a role has.
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Cidr, type IpAddress, parseIp } from "../../../../src/base/ip.ts";
import { silentLogger } from "../../../../src/base/log.ts";
import { LAN_ALWAYS } from "../../../../src/net/local-networks.ts";
import { windowsSystemsWith } from "../../../../src/net/os-windows.ts";
import type { ClientRoutesPolicy } from "../../../../src/net/routes/client-routes.ts";
import type { ClientSystem, SystemOptions, Systems } from "../../../../src/net/system.ts";
import type { WireGuardConfig, WireGuardPeer } from "../../../../src/net/wg/device.ts";
import type { WireGuardKey, WireGuardSecret } from "../../../../src/proto/keys.ts";
import { ALONE, OWN, TUNNEL } from "../firewall/client-policies.ts";
import { FakeWindows } from "./fake-windows.ts";

export const { signal } = new AbortController();
const ip = (text: string): IpAddress => parseIp(text) as IpAddress;
const cidr = (text: string): Cidr => text as Cidr;

export const PROGRAM = "C:\\Program Files\\higgs\\higgs.exe";

export const CONFIG: WireGuardConfig = {
  privateKey: "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=" as WireGuardSecret,
  listenPort: 51820,
  addresses: TUNNEL.addresses,
  mtu: 1420,
  peers: "as-they-are",
};

export const PEER: WireGuardPeer = {
  publicKey: "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=" as WireGuardKey,
  endpoint: { address: ip("127.0.0.1"), port: 40001 },
  allowedIps: [cidr("0.0.0.0/0"), cidr("::/0")],
  keepaliveS: 25,
};

export const ROUTES: ClientRoutesPolicy = {
  interface: "higgs0",
  uid: 0,
  carrier: OWN.carrier,
  families: { 4: "tunnel", 6: "tunnel" },
  tunnelPrefixes: [cidr("10.83.0.0/16"), cidr("fd83:1:2::/48")],
  throwPrefixes: [],
};

export const CONNECTED = { policy: { kind: "connected", tunnel: TUNNEL, own: OWN, near: ALONE }, egress: [] } as const;
export const WITH_LAN = {
  policy: {
    kind: "connected",
    tunnel: TUNNEL,
    own: OWN,
    near: { bridges: [], lan: [cidr("192.168.7.0/24"), cidr("fd66:1::/64"), ...LAN_ALWAYS] },
  },
  egress: [],
} as const;
export const DNS = { interface: "higgs0", servers: [ip("10.83.0.1"), ip("fd83:1:2::1")] };

export interface Scene {
  readonly windows: FakeWindows;
  readonly systems: Systems;
  readonly options: SystemOptions & { readonly withoutFirewall: boolean };
  readonly stateDir: string;
}

export function scene(windows: FakeWindows = new FakeWindows()): Scene {
  const stateDir = mkdtempSync(join(tmpdir(), "higgs-windows-"));
  const options = {
    stateDir,
    libexecDir: "unused",
    wireGuard: "auto",
    command: "higgs client up",
    log: silentLogger,
    withoutFirewall: false,
  } as const;
  return { windows, systems: windowsSystemsWith({ exec: windows, program: PROGRAM }), options, stateDir };
}

/** In the order of src/client/connection.ts: the tunnel, its peer, and once the exit answers, firewall, routes and names. */
export async function comeUp(os: ClientSystem): Promise<void> {
  await os.wireGuard.apply(CONFIG, signal);
  await os.wireGuard.setPeer(PEER, signal);
  await os.clientFirewall.apply(CONNECTED, signal);
  await os.clientRoutes.apply(ROUTES, signal);
  await os.systemDns.apply(DNS, signal);
}

/** Another LAN decision, another server, an exit without IPv6 and with one name server. */
export async function change(os: ClientSystem): Promise<void> {
  await os.clientFirewall.apply(WITH_LAN, signal);
  const carrier = [{ address: ip("203.0.113.77"), port: 443 }];
  await os.clientRoutes.apply({ ...ROUTES, carrier, families: { 4: "tunnel", 6: "refuse" } }, signal);
  await os.systemDns.apply({ ...DNS, servers: [ip("10.83.0.9")] }, signal);
}
