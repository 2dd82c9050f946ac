// What `netstat -rn` of macOS shows of the routes, one family at a time.
//
// "Destination Gateway Flags Netif Expire", with "Refs Use" before "Netif" until macOS 11. A prefix of IPv4 is written without the zeros
// at its end (10.64/10, 128.0/1, 192.168.7), and one without a length has eight bits for each number (netstat(1), inet_net_ntop).
import { type Cidr, type Family, parseCidr } from "../base/ip.ts";

export interface ShownRoute {
  /** Null for what is no prefix of the family, as a scoped link-local one. */
  readonly prefix: Cidr | null;
  readonly isDefault: boolean;
  readonly gateway: string;
  /** One letter or digit each (netstat(1)). */
  readonly flags: string;
  readonly interface: string;
}

/** Lines that are no routes are passed over. */
export function parseNetstat(text: string, family: Family): readonly ShownRoute[] {
  let at: number | null = null;
  const found: ShownRoute[] = [];
  for (const line of text.split("\n")) {
    const words = line.trim().split(/\s+/);
    if (words[0] === "Destination") {
      at = words.indexOf("Netif");
      continue;
    }
    const [destination = "", gateway = "", flags = ""] = words;
    const name = at === null ? undefined : words[at];
    if (name === undefined || destination === "") continue;
    const isDefault = destination === "default";
    const prefix = isDefault ? null : prefixOf(destination, { family, isHost: flags.includes("H") });
    found.push({ prefix, isDefault, gateway, flags, interface: name });
  }
  return found;
}

function prefixOf(shown: string, is: { readonly family: Family; readonly isHost: boolean }): Cidr | null {
  const [address = "", length] = shown.split("/");
  if (is.family === 6) return parseCidr(`${address}/${length ?? "128"}`);
  const numbers = address.split(".");
  const whole = [...numbers, "0", "0", "0"].slice(0, 4).join(".");
  return parseCidr(`${whole}/${length ?? (is.isHost ? 32 : numbers.length * 8)}`);
}
