// The lab's cables, addresses and router rules, compared whole.
import { describe, expect, test } from "bun:test";
import { routerRuleset } from "../../../src/lab/nat.ts";
import { smallInternet } from "../../../src/lab/small-internet.ts";
import { checkTopology, type HostSpec } from "../../../src/lab/topology.ts";
import { addressBatch, cableBatch, macAddress, segmentBatch, uncableBatch } from "../../../src/lab/wire.ts";

const topology = smallInternet();

function host(name: string, from = topology): HostSpec {
  const found = from.hosts.find((candidate) => candidate.name === name);
  if (found === undefined) throw new Error(`no ${name}`);
  return found;
}

describe("smallInternet()", () => {
  test("can be built, in every form", () => {
    checkTopology(topology);
    checkTopology(smallInternet({ homeIpv6: false, cafeIpv6: false, homeNat: "symmetric-random" }));
  });

  test("has no address twice, and leaves IPv6 out where it is not wanted", () => {
    const addresses = (from: typeof topology): string[] =>
      from.hosts.flatMap((each) => each.interfaces.flatMap((link) => [link.ipv4 ?? [], link.ipv6 ?? []].flat()));
    expect(new Set(addresses(topology)).size).toBe(addresses(topology).length);
    const without = smallInternet({ homeIpv6: false });
    expect(addresses(without).filter((address) => address.startsWith("2001:db8:7:"))).toEqual([]);
    expect(host("internet", without).routes).toEqual([{ to: "2001:db8:66::/48", via: "2001:db8:66::66" }]);
  });
});

describe("the batches for ip", () => {
  test("of a laptop cable, address and route it", () => {
    const mac = macAddress("laptop", "eth0");
    expect(mac).toMatch(/^02(:[0-9a-f]{2}){5}$/);
    expect(cableBatch(topology, host("laptop"), 77)).toBe(
      `link add p8-0 master cafe-lan up type veth peer name eth0 address ${mac} netns 77\n`,
    );
    expect(uncableBatch(topology, host("laptop"))).toBe("link del p8-0\n");
    expect(addressBatch(host("laptop"))).toBe(`link set lo up
link set eth0 up
addr add 192.168.7.2/24 brd + dev eth0
addr add 2001:db8:66:1::2/64 dev eth0 nodad
route add 0.0.0.0/0 via 192.168.7.1
route add ::/0 via 2001:db8:66:1::1
`);
  });

  test("of the segments make bridges that forward at once", () => {
    expect(segmentBatch([{ name: "internet" }])).toBe(
      "link add internet type bridge stp_state 0 mcast_snooping 0\nlink set internet up\n",
    );
  });
});

describe("routerRuleset()", () => {
  test("of the café masquerades, forwards DNS, and lets nobody in", () => {
    expect(routerRuleset(host("cafe-router"))).toBe(`table inet input {
  chain input {
    type filter hook input priority filter; policy accept;
    iifname "wan" ct state established,related accept
    iifname "wan" icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
    iifname "wan" drop
  }
}

table inet forward {
  chain forward {
    type filter hook forward priority filter; policy accept;
    ct state established,related accept
    iifname "wan" meta nfproto ipv6 drop
    iifname "wan" ct status dnat accept
    iifname "wan" drop
  }
}

table ip nat {
  chain pre {
    type nat hook prerouting priority dstnat; policy accept;
    iifname "lan" ip daddr 192.168.7.1 udp dport 53 dnat to 203.0.113.53
    iifname "lan" ip daddr 192.168.7.1 tcp dport 53 dnat to 203.0.113.53
  }
  chain post {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "wan" masquerade
  }
}
`);
  });

  test("is empty for a host", () => {
    expect(routerRuleset(host("laptop"))).toBe("");
  });
});
