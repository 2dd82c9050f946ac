// Whether this machine's network is another than before, and what that means for what is open: pure.
import type { Links, LocalAddress } from "../net/links.ts";
import type { Doubt } from "./reconnect.ts";

export type LinksChange = Exclude<Doubt, "silence">;

/**
 * Null for what is no change: other ways out, networks or addresses are one, and rules and routes of ours are none. "moved" when an
 * interface that led out has lost an address.
 */
export function linksChange(before: Links, now: Links): LinksChange | null {
  const led = new Set(before.uplinks.map((uplink) => uplink.interface));
  const fresh = new Set(addressesOf(now).map((one) => one.address));
  if (addressesOf(before).some((one) => led.has(one.interface) && !fresh.has(one.address))) return "moved";
  return keyOf(before) === keyOf(now) ? null : "changed";
}

function addressesOf({ addresses }: Links): readonly LocalAddress[] {
  return addresses.filter((one) => one.scope === "global" && !one.tentative);
}

function keyOf(links: Links): string {
  return JSON.stringify([links.uplinks, links.connected, addressesOf(links).map((one) => one.address)]);
}
