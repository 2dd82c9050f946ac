// The configuration file of WireGuard for Windows' tunnel service: made from a device's wanted state, for its eyes alone.
import type { WireGuardConfig } from "./device.ts";

/**
 * Of wg-quick(8)'s language: no peers, which `wg set` adds to the running tunnel, so that the service neither routes nor closes anything
 * by itself (wireguard-windows, docs/netquirk.md), and `Table = off` in case it would.
 */
export function tunnelConf(config: Pick<WireGuardConfig, "privateKey" | "listenPort" | "addresses" | "mtu">): string {
  return [
    "[Interface]",
    `PrivateKey = ${config.privateKey}`,
    `ListenPort = ${config.listenPort}`,
    `Address = ${config.addresses.map((address) => `${address}/${address.includes(":") ? 128 : 32}`).join(", ")}`,
    `MTU = ${config.mtu}`,
    "Table = off",
    "",
  ].join("\r\n");
}
