// The client's rules on Windows, held against what Microsoft says of their precedence: a refusal wins, then a permission, then the default.
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  type Cidr,
  cidrContains,
  cidrParts,
  familyOf,
  type IpAddress,
  parseCidr,
  parseIp,
} from "../../../../src/base/ip.ts";
import { rangesWithout } from "../../../../src/net/firewall/address-ranges.ts";
import type { ClientFirewallPolicy } from "../../../../src/net/firewall/client.ts";
import { windowsRules } from "../../../../src/net/firewall/windows-rules.ts";
import { LAN_ALWAYS } from "../../../../src/net/local-networks.ts";
import { ALONE, OWN, POLICIES, TUNNEL } from "../firewall/client-policies.ts";
import { PROGRAM } from "./client-scene.ts";
import { hasAddress, type RulePacket, ruleVerdict } from "./verdicts.ts";

function verdict(policy: ClientFirewallPolicy, packet: RulePacket): "open" | "closed" {
  return ruleVerdict(windowsRules(policy, { group: "higgs-client", program: PROGRAM }), packet);
}

const AT = { 4: "192.168.7.20", 6: "fd66:1::20" } as const;
const out = (rest: Omit<RulePacket, "direction" | "local"> & { readonly local?: string }): RulePacket => ({
  direction: "Outbound",
  local: AT[rest.remote.includes(":") ? 6 : 4],
  ...rest,
});

/** As docs/security-states.md names them; each packet is tried. */
const CLASSES: Readonly<Record<string, readonly RulePacket[]>> = {
  internet: [
    out({ protocol: "TCP", remote: "198.51.100.1", remotePort: 443 }),
    out({ protocol: "UDP", remote: "198.51.100.1", remotePort: 443 }),
    out({ protocol: "ICMPv4", remote: "198.51.100.1", icmpType: 8 }),
    out({ protocol: "TCP", remote: "2001:db8::1", remotePort: 443 }),
    out({ protocol: "UDP", remote: "2001:db8::1", remotePort: 443 }),
    out({ protocol: "ICMPv6", remote: "2001:db8::1", icmpType: 128 }),
    out({ protocol: "TCP", remote: "198.51.100.1", remotePort: 443, local: "10.0.0.9" }),
    out({ protocol: "UDP", remote: "198.51.100.1", remotePort: 53 }),
    out({ protocol: "TCP", remote: "2001:db8::1", remotePort: 853 }),
  ],
  "internet, by a program with a permission of its own": [
    out({ protocol: "TCP", remote: "198.51.100.1", remotePort: 443, program: "game.exe" }),
    out({ protocol: "UDP", remote: "2001:db8::1", remotePort: 3074, program: "game.exe" }),
  ],
  tunnel: [
    out({ protocol: "TCP", remote: "198.51.100.1", remotePort: 443, local: "10.83.0.2" }),
    out({ protocol: "UDP", remote: "2001:db8::1", remotePort: 53, local: "fd83:1:2::2" }),
    out({ protocol: "ICMPv4", remote: "10.83.0.1", icmpType: 8, local: "10.83.0.2" }),
  ],
  LAN: [
    out({ protocol: "TCP", remote: "192.168.7.9", remotePort: 445 }),
    out({ protocol: "UDP", remote: "fd66:1::9", remotePort: 5353 }),
    out({ protocol: "UDP", remote: "239.255.255.250", remotePort: 1900 }),
    out({ protocol: "ICMPv4", remote: "192.168.7.1", icmpType: 8 }),
  ],
  "LAN DNS and DoT": [
    out({ protocol: "UDP", remote: "192.168.7.1", remotePort: 53 }),
    out({ protocol: "TCP", remote: "fd66:1::1", remotePort: 853 }),
  ],
  "from the LAN": [{ direction: "Inbound", protocol: "TCP", local: AT[4], localPort: 445, remote: "192.168.7.9" }],
  "from the internet": [
    { direction: "Inbound", protocol: "TCP", local: AT[4], localPort: 445, remote: "198.51.100.1" },
  ],
  carrier: [
    out({ protocol: "TCP", remote: "203.0.113.10", remotePort: 443, program: PROGRAM }),
    out({ protocol: "TCP", remote: "2001:db8:10::10", remotePort: 8443, program: PROGRAM }),
  ],
  "server, others": [
    out({ protocol: "TCP", remote: "203.0.113.10", remotePort: 443, program: "browser.exe" }),
    out({ protocol: "TCP", remote: "203.0.113.10", remotePort: 22, program: PROGRAM }),
    out({ protocol: "UDP", remote: "203.0.113.10", remotePort: 443, program: PROGRAM }),
  ],
  DHCP: [
    out({ protocol: "UDP", local: "0.0.0.0", localPort: 68, remote: "255.255.255.255", remotePort: 67 }),
    out({ protocol: "UDP", local: "fe80::20", localPort: 546, remote: "ff02::1:2", remotePort: 547 }),
  ],
  neighbours: [out({ protocol: "ICMPv6", local: "fe80::20", remote: "ff02::1:ff00:1", icmpType: 135 })],
};

const LAN = { bridges: [], lan: [...["192.168.7.0/24", "fd66:1::/64"].map((text) => text as Cidr), ...LAN_ALWAYS] };
const SITUATIONS: readonly (readonly [string, ClientFirewallPolicy, readonly string[]])[] = [
  [
    "disconnected",
    { kind: "disconnected" },
    [
      "internet",
      "internet, by a program with a permission of its own",
      "tunnel",
      "LAN",
      "LAN DNS and DoT",
      "from the LAN",
      "from the internet",
      "carrier",
      "server, others",
      "DHCP",
      "neighbours",
    ],
  ],
  [
    "exitless",
    POLICIES["exitless"] ?? { kind: "disconnected" },
    [
      "internet",
      "internet, by a program with a permission of its own",
      "tunnel",
      "LAN",
      "LAN DNS and DoT",
      "from the LAN",
      "from the internet",
      "carrier",
      "server, others",
      "DHCP",
      "neighbours",
    ],
  ],
  [
    "connecting",
    { kind: "connecting", tunnel: TUNNEL, own: OWN, near: ALONE },
    ["tunnel", "carrier", "DHCP", "neighbours"],
  ],
  [
    "connected",
    { kind: "connected", tunnel: TUNNEL, own: OWN, near: ALONE },
    ["tunnel", "carrier", "DHCP", "neighbours"],
  ],
  [
    "connecting, LAN",
    { kind: "connecting", tunnel: TUNNEL, own: OWN, near: LAN },
    ["tunnel", "LAN", "from the LAN", "carrier", "DHCP", "neighbours"],
  ],
  [
    "connected, LAN",
    { kind: "connected", tunnel: TUNNEL, own: OWN, near: LAN },
    ["tunnel", "LAN", "from the LAN", "carrier", "DHCP", "neighbours"],
  ],
  ["disconnecting", { kind: "disconnecting", near: ALONE }, ["DHCP", "neighbours"]],
  ["disconnecting, LAN", { kind: "disconnecting", near: LAN }, ["LAN", "from the LAN", "DHCP", "neighbours"]],
  ["blocked", { kind: "blocked", near: ALONE }, ["DHCP", "neighbours"]],
  ["blocked, LAN", { kind: "blocked", near: LAN }, ["LAN", "from the LAN", "DHCP", "neighbours"]],
];

describe("windowsRules()", () => {
  for (const [name, policy, open] of SITUATIONS) {
    test(`closes everything but ${open.length} classes of packets while ${name}`, () => {
      for (const [what, packets] of Object.entries(CLASSES)) {
        for (const packet of packets) {
          expect(`${what} ${JSON.stringify(packet)}: ${verdict(policy, packet)}`).toBe(
            `${what} ${JSON.stringify(packet)}: ${open.includes(what) ? "open" : "closed"}`,
          );
        }
      }
    });
  }

  test("gives a rule another name as soon as it says something else, and the same one otherwise", () => {
    const names = (policy: ClientFirewallPolicy): string[] =>
      windowsRules(policy, { group: "higgs-client", program: PROGRAM }).rules.map(({ Name }) => Name);
    const blocked = names({ kind: "blocked", near: ALONE });
    expect(new Set(blocked).size).toBe(blocked.length);
    expect(names({ kind: "disconnecting", near: ALONE })).toEqual(blocked);
    const locked = names({ kind: "blocked", near: LAN });
    expect(locked.filter((name) => blocked.includes(name)).length).toBeLessThan(locked.length);
  });
});

describe("rangesWithout()", () => {
  const four = fc
    .tuple(fc.nat(0xff), fc.nat(0xff), fc.nat(0xff), fc.nat(0xff))
    .map((parts) => parts.join(".") as IpAddress);
  const six = fc
    .array(fc.nat(0xffff), { minLength: 8, maxLength: 8 })
    .map((groups) => parseIp(groups.map((group) => group.toString(16)).join(":")) as IpAddress);
  const prefix = fc
    .oneof(
      fc.tuple(four, fc.integer({ min: 0, max: 32 })),
      fc.tuple(
        six.filter((address) => familyOf(address) === 6),
        fc.integer({ min: 0, max: 128 }),
      ),
    )
    .map(([address, length]) => parseCidr(`${address}/${length}`) as Cidr);

  test("has an address exactly when no prefix has it", () => {
    fc.assert(
      fc.property(
        fc.array(prefix, { maxLength: 6 }),
        fc.oneof(
          four,
          six.filter((one) => familyOf(one) === 6),
        ),
        (prefixes, address) => {
          const ranges = rangesWithout(familyOf(address), prefixes);
          const isTaken = prefixes.some((one) => cidrContains(one, address));
          expect(ranges.length > 0 && hasAddress(ranges, address)).toBe(!isTaken);
          for (const one of prefixes.filter((other) => familyOf(other) === familyOf(address))) {
            expect(ranges.length > 0 && hasAddress(ranges, cidrParts(one).address)).toBe(false);
          }
        },
      ),
    );
  });

  test("is all of a family without prefixes, and nothing where they cover it", () => {
    expect(rangesWithout(4, [])).toEqual(["0.0.0.0-255.255.255.255"]);
    expect(rangesWithout(6, ["::/0" as Cidr])).toEqual([]);
    expect(rangesWithout(4, ["0.0.0.0/1" as Cidr, "128.0.0.0/2" as Cidr, "192.0.0.0/3" as Cidr])).toEqual([
      "224.0.0.0-255.255.255.255",
    ]);
    expect(rangesWithout(4, ["0.0.0.0/32" as Cidr, "0.0.0.2/31" as Cidr])).toEqual([
      "0.0.0.1",
      "0.0.0.4-255.255.255.255",
    ]);
  });
});
