// What `ifconfig` of macOS shows of the interfaces.
//
//   en0: flags=8863<UP,BROADCAST,…> mtu 1500
//           inet 192.168.7.20 netmask 0xffffff00 broadcast 192.168.7.255
//           inet6 fe80::1cb1:8cff:fe5d:11f%en0 prefixlen 64 secured scopeid 0x4
//   utun7: flags=8051<UP,POINTOPOINT,RUNNING,MULTICAST> mtu 1420
//           inet 10.83.0.2 --> 10.83.0.2 netmask 0xffffffff
import { type IpAddress, parseIp } from "../base/ip.ts";

export interface ShownInterface {
  readonly name: string;
  readonly isUp: boolean;
  readonly mtu: number;
  readonly addresses: readonly ShownAddress[];
}

export interface ShownAddress {
  readonly address: IpAddress;
  readonly prefixLength: number;
  readonly isLinkLocal: boolean;
  /** ifconfig(8): "temporary", "deprecated", "tentative", "duplicated". */
  readonly words: readonly string[];
}

/** Lines that say neither are passed over. */
export function parseIfconfig(text: string): readonly ShownInterface[] {
  const found: ShownInterface[] = [];
  let addresses: ShownAddress[] = [];
  for (const line of text.split("\n")) {
    const head = /^(\S+): flags=[0-9a-f]+<([^>]*)>.*?\bmtu (\d+)/.exec(line);
    if (head !== null) {
      addresses = [];
      const [, name = "", flags = "", mtu = ""] = head;
      found.push({ name, isUp: flags.split(",").includes("UP"), mtu: Number(mtu), addresses });
      continue;
    }
    const address = addressOf(line.trim().split(/\s+/));
    if (address !== null) addresses.push(address);
  }
  return found;
}

function addressOf(words: readonly string[]): ShownAddress | null {
  const [family, shown = ""] = words;
  if (family !== "inet" && family !== "inet6") return null;
  const address = parseIp(shown.split("%")[0] ?? "");
  const prefixLength = family === "inet" ? maskLength(after(words, "netmask")) : Number(after(words, "prefixlen"));
  if (address === null || !Number.isInteger(prefixLength)) return null;
  return { address, prefixLength, isLinkLocal: /^fe[89ab]|^169\.254\./.test(address), words: words.slice(2) };
}

function after(words: readonly string[], word: string): string {
  const at = words.indexOf(word);
  return at < 0 ? "" : (words[at + 1] ?? "");
}

/** 0xffffff00 is 24. */
function maskLength(mask: string): number {
  if (!/^0x[0-9a-f]{8}$/.test(mask)) return Number.NaN;
  return Number(mask).toString(2).replaceAll("0", "").length;
}
