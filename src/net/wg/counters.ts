// What went through an interface, from the kernel's table of all of them.
//
// /proc/net/dev, after two lines of headings: "NAME:" and sixteen numbers, of which
//   0 received bytes | 1 received packets | … | 8 sent bytes | 9 sent packets | …
import type { DeviceCounters } from "./device.ts";

/** Null when the interface is not there. */
export function parseNetDev(text: string, name: string): DeviceCounters | null {
  for (const line of text.split("\n")) {
    const colon = line.indexOf(":");
    if (colon < 0 || line.slice(0, colon).trim() !== name) continue;
    const [rxBytes, rxPackets, , , , , , , txBytes, txPackets] = line
      .slice(colon + 1)
      .trim()
      .split(/\s+/)
      .map(Number);
    if (rxBytes === undefined || rxPackets === undefined || txBytes === undefined || txPackets === undefined)
      return null;
    return { rxBytes, txBytes, rxPackets, txPackets };
  }
  return null;
}
