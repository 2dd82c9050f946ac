// Tests of reading the device as an interface, of the lines that change it, and of the kernel's tables beside it.
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { IpAddress } from "../../../../src/base/ip.ts";
import { parseNetDev } from "../../../../src/net/wg/counters.ts";
import { hasLocalPort } from "../../../../src/net/wg/host.ts";
import { linkFrom, linkLines, LinkUnreadable } from "../../../../src/net/wg/link.ts";

const V4 = "10.64.0.2" as IpAddress;
const V6 = "fd64::2" as IpAddress;

function recorded(name: string): string {
  return readFileSync(join(import.meta.dir, "recorded", name), "utf8");
}

describe("linkFrom()", () => {
  test("reads kind, MTU, state and addresses, without the kernel's own link-local one", () => {
    expect(linkFrom(recorded("addr-tun.json"), "higgs0")).toEqual({
      kind: "tun",
      mtu: 1400,
      isUp: true,
      addresses: [
        { address: V4, prefixLength: 32 },
        { address: V6, prefixLength: 128 },
      ],
    });
  });

  test("refuses what is not the JSON of ip", () => {
    for (const text of ["", "{}", "[1]", "Device does not exist", '[{"ifname":"higgs0"}]']) {
      expect(() => linkFrom(text, "higgs0")).toThrow(LinkUnreadable);
    }
    expect(linkFrom("[]", "higgs0")).toBeNull();
  });
});

describe("linkLines()", () => {
  const wanted = { mtu: 1400, addresses: [V4, V6], hasIpv6: true };
  const fresh = { kind: "tun", mtu: 1500, isUp: false, addresses: [] };

  test("sets a new interface up, quiet before it is up", () => {
    expect(linkLines("higgs0", fresh, wanted)).toEqual([
      "link set dev higgs0 mtu 1400",
      "link set dev higgs0 addrgenmode none",
      "addr add 10.64.0.2/32 dev higgs0",
      "addr add fd64::2/128 dev higgs0 nodad",
    ]);
  });

  test("is empty when everything is as wanted", () => {
    const link = linkFrom(recorded("addr-tun.json"), "higgs0");
    expect(link === null ? null : linkLines("higgs0", link, wanted)).toEqual([]);
  });

  test("adds the new address before it takes the old one away", () => {
    const now = {
      ...fresh,
      mtu: 1400,
      isUp: true,
      addresses: [{ address: "10.64.0.9" as IpAddress, prefixLength: 24 }],
    };
    expect(linkLines("higgs0", now, { ...wanted, addresses: [V4] })).toEqual([
      "addr add 10.64.0.2/32 dev higgs0",
      "addr del 10.64.0.9/24 dev higgs0",
    ]);
  });

  test("speaks of IPv6 nowhere on a machine without it", () => {
    expect(linkLines("higgs0", fresh, { ...wanted, hasIpv6: false })).toEqual([
      "link set dev higgs0 mtu 1400",
      "addr add 10.64.0.2/32 dev higgs0",
    ]);
  });

  test("lets no name of an interface through that could be a command", () => {
    for (const name of ["", "a b", "higgs0;reboot", "..", "-all", "averyverylongname", "x\ny"]) {
      expect(() => linkLines(name, fresh, wanted)).toThrow(LinkUnreadable);
    }
  });
});

describe("parseNetDev()", () => {
  test("reads bytes and packets of one interface", () => {
    const counters = { rxBytes: 0, rxPackets: 0, txBytes: 48, txPackets: 1 };
    expect(parseNetDev(recorded("net-dev.txt"), "higgs0")).toEqual(counters);
    const loopback = { rxBytes: 356, rxPackets: 3, txBytes: 356, txPackets: 3 };
    expect(parseNetDev(recorded("net-dev.txt"), "lo")).toEqual(loopback);
    expect(parseNetDev("  wlan0:12345678901 2 0 0 0 0 0 0 9 8 0 0 0 0 0 0\n", "wlan0")).toEqual({
      rxBytes: 12345678901,
      rxPackets: 2,
      txBytes: 9,
      txPackets: 8,
    });
  });

  test("is null for an interface that is not there", () => {
    expect(parseNetDev(recorded("net-dev.txt"), "higgs")).toBeNull();
    expect(parseNetDev("", "higgs0")).toBeNull();
  });
});

describe("hasLocalPort()", () => {
  test("finds a port in /proc/net/udp6, also one that only the kernel holds", () => {
    expect(hasLocalPort(recorded("udp6.txt"), 51820)).toBeTrue();
    expect(hasLocalPort(recorded("udp6.txt"), 51821)).toBeTrue();
    expect(hasLocalPort(recorded("udp6.txt"), 51822)).toBeFalse();
    expect(hasLocalPort("", 0)).toBeFalse();
  });
});
