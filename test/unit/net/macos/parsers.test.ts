// What macOS' tools print, as published by people who ran them: netstat before and after macOS 11, ifconfig, ps, pfctl.
import { describe, expect, test } from "bun:test";
import { anchorTrouble, listedLabels } from "../../../../src/net/firewall/pf-table.ts";
import { parseShown } from "../../../../src/net/dns/scutil.ts";
import { PF_ANCHOR_POINT } from "../../../../src/net/identifiers-macos.ts";
import { parseIfconfig } from "../../../../src/net/ifconfig.ts";
import { macLinks, macNetworks } from "../../../../src/net/links-macos.ts";
import { parseNetstat } from "../../../../src/net/netstat.ts";
import { platformOf, requireAskedFor, usualDirs } from "../../../../src/net/platform.ts";
import { parsePs, parsePsAll } from "../../../../src/net/process-macos.ts";
import { isTunnelName } from "../../../../src/net/wg/host-macos.ts";
import { parseCounters } from "../../../../src/net/wg/macos.ts";

// apple.stackexchange.com/questions/336888
const OLD = `Routing tables

Internet:
Destination        Gateway            Flags        Refs      Use   Netif Expire
default            10.10.10.1         UGSc           20       16     en0
10.10.10/24        link#4             UCS             1        0     en0
10.10.10.1/32      link#4             UCS             1        0     en0
10.10.10.1         bc:67:1c:40:3:f6   UHLWIir        21       14     en0   1193
127                127.0.0.1          UCS             0        0     lo0
169.254            link#4             UCS             0        0     en0
172.16.111/24      link#11            UC              1        0  vmnet1
224.0.0/4          link#4             UmCS            2        0     en0
255.255.255.255/32 link#4             UCS             0        0     en0
`;
// macOS 11.3, and the halves that VPNs lay over the default route.
const NEW = `Routing tables

Internet:
Destination        Gateway            Flags        Netif Expire
0/1                utun3              USc          utun3
default            192.168.0.1        UGScg          en0
default            192.168.1.1        UGScIg         en1
128.0/1            utun3              USc          utun3
203.0.113.10       192.168.0.1        UGHS12         en0
`;

describe("parseNetstat()", () => {
  test("reads prefixes without the zeros at their end, in both forms of the table", () => {
    const shown = (text: string): readonly (string | null)[] => parseNetstat(text, 4).map(({ prefix }) => prefix);
    expect(shown(OLD)).toEqual([
      null,
      "10.10.10.0/24",
      "10.10.10.1/32",
      "10.10.10.1/32",
      "127.0.0.0/8",
      "169.254.0.0/16",
      "172.16.111.0/24",
      "224.0.0.0/4",
      "255.255.255.255/32",
    ]);
    expect(shown(NEW)).toEqual(["0.0.0.0/1", null, null, "128.0.0.0/1", "203.0.113.10/32"]);
    expect(parseNetstat(OLD, 4).map((route) => route.interface)).toContain("vmnet1");
  });

  test("reads IPv6, passes over zones, and says nothing of what is no table", () => {
    const text = `Internet6:
Destination                             Gateway                         Flags         Netif Expire
default                                 fe80::1%en0                     UGcg            en0
::1                                     ::1                             UHL             lo0
2001:db8:7::/64                         link#4                          UC              en0
fe80::%en0/64                           link#4                          UCI             en0
`;
    expect(parseNetstat(text, 6).map(({ prefix }) => prefix as string | null)).toEqual([
      null,
      "::1/128",
      "2001:db8:7::/64",
      null,
    ]);
    expect(parseNetstat("netstat: no namelist\n", 4)).toEqual([]);
  });
});

// wiki of stackoverflow.com/questions/29958143, and github.com/vpn-kill-switch/killswitch/issues/19
const IFCONFIG = `lo0: flags=8049<UP,LOOPBACK,RUNNING,MULTICAST> mtu 16384
\toptions=3<RXCSUM,TXCSUM>
\tinet6 ::1 prefixlen 128 
\tinet 127.0.0.1 netmask 0xff000000 
gif0: flags=8010<POINTOPOINT,MULTICAST> mtu 1280
en0: flags=8863<UP,BROADCAST,SMART,RUNNING,SIMPLEX,MULTICAST> mtu 1500
\tether 64:76:ba:ae:a3:02 
\tinet6 fe80::6676:baff:feae:a302%en0 prefixlen 64 scopeid 0x4 
\tinet 172.30.7.47 netmask 0xffff0000 broadcast 172.30.255.255
\tinet6 2001:db8::7 prefixlen 64 autoconf temporary 
\tnd6 options=1<PERFORMNUD>
\tstatus: active
utun1: flags=8051<UP,POINTOPOINT,RUNNING,MULTICAST> mtu 1500
\tinet 172.21.22.110 --> 172.21.22.110 netmask 0xfffffe00 
bridge100: flags=8863<UP,BROADCAST,SMART,RUNNING,SIMPLEX,MULTICAST> mtu 1500
\tinet 192.168.64.1 netmask 0xffffff00 broadcast 192.168.64.255
`;

describe("links of a Mac", () => {
  const shown = {
    interfaces: parseIfconfig(IFCONFIG),
    routes: { 4: parseNetstat(NEW, 4), 6: [] },
  };

  test("parseIfconfig() reads masks, ends of lines between two, and what an address is", () => {
    expect(shown.interfaces.map(({ name, isUp, mtu }) => `${name} ${isUp} ${mtu}`)).toEqual([
      "lo0 true 16384",
      "gif0 false 1280",
      "en0 true 1500",
      "utun1 true 1500",
      "bridge100 true 1500",
    ]);
    expect(
      shown.interfaces[2]?.addresses.map((one) => `${one.address}/${one.prefixLength} ${one.isLinkLocal}`),
    ).toEqual(["fe80::6676:baff:feae:a302/64 true", "172.30.7.47/16 false", "2001:db8::7/64 false"]);
  });

  test("macLinks() leaves our own tunnel and our own routes out", () => {
    const links = macLinks(shown, "utun1");
    expect(links.uplinks.map((uplink) => `${uplink.interface} ${uplink.gateway ?? ""}`)).toEqual([
      "en0 192.168.0.1",
      "en1 192.168.1.1",
    ]);
    expect(links.connected.map(({ prefix }) => prefix as string)).toEqual([
      "172.30.0.0/16",
      "2001:db8::/64",
      "192.168.64.0/24",
    ]);
    expect(links.addresses.find(({ address }) => address.startsWith("2001"))?.temporary).toBe(true);
  });

  test("macNetworks() tells bridges of virtual machines from the LAN", () => {
    const networks = macNetworks(macLinks(shown, "utun1"));
    expect(networks.bridges).toEqual(["bridge100"]);
    expect(networks.lan.map(String)).toEqual(["172.30.0.0/16"]);
  });
});

describe("what else macOS says", () => {
  test("parsePs() reads a state and a start, and null for no process", () => {
    const startTime = String(Date.parse("Sat Nov 21 13:56:39 2026") / 1000);
    expect(parsePs("Ss   Sat Nov 21 13:56:39 2026    \n")).toEqual({ state: "S", startTime });
    expect(parsePs("")).toBeNull();
    expect(parsePsAll("  1 /sbin/launchd\n 71 /usr/local/bin/higgs client run\n")).toEqual([
      { pid: 1, argv: ["/sbin/launchd"] },
      { pid: 71, argv: ["/usr/local/bin/higgs", "client", "run"] },
    ]);
  });

  test("listedLabels() shows rules that are not ours, and not pfctl's remarks", () => {
    const ours =
      'pass out quick inet proto tcp from any to 203.0.113.10 port = 443 user = 0 no state label "higgs-0123456789abcdef-2"';
    expect(listedLabels(`No ALTQ support in kernel\nALTQ related functions disabled\n${ours}\npass in all\n`)).toEqual([
      "higgs-0123456789abcdef-2",
      "?",
    ]);
  });

  test("anchorTrouble() is none for macOS' own rules, and names what decides first", () => {
    const usual = 'scrub-anchor "com.apple/*" all fragment reassemble\nanchor "com.apple/*" all\n';
    expect(anchorTrouble(usual, PF_ANCHOR_POINT)).toBeNull();
    expect(anchorTrouble(`${usual}anchor "com.other" all\n`, PF_ANCHOR_POINT)).toBeNull();
    expect(anchorTrouble("", PF_ANCHOR_POINT)).toContain("do not call");
    expect(anchorTrouble(`anchor "com.other" all\n${usual}`, PF_ANCHOR_POINT)).toContain('anchor "com.other" all');
  });

  test("parseShown() reads lists, an empty name too, and null without the key", () => {
    const text = `<dictionary> {
  ServerAddresses : <array> {
    0 : 10.83.0.1
    1 : fd83:1:2::1
  }
  SupplementalMatchDomains : <array> {
    0 : 
  }
}
`;
    expect(parseShown(text)).toEqual({ servers: ["10.83.0.1", "fd83:1:2::1"], search: [], isForEveryName: true });
    expect(parseShown("  No such key\n")).toBeNull();
  });

  test("parseCounters() counts from the end of the line, as a tunnel has no address", () => {
    const text = `Name       Mtu   Network       Address            Ipkts Ierrs     Ibytes    Opkts Oerrs     Obytes  Coll
utun7      1420  <Link#20>                           12     0       1234       13     0       1300     0
utun7      1420  10.83.0.2/32  10.83.0.2             12     -       1234       13     -       1300     -
`;
    expect(parseCounters(text, "utun7")).toEqual({ rxBytes: 1234, txBytes: 1300, rxPackets: 12, txPackets: 13 });
    expect(parseCounters(text, "utun8")).toBeNull();
  });

  test("isTunnelName() believes nothing but utun and a number", () => {
    expect(["utun0", "utun12"].every(isTunnelName)).toBe(true);
    expect(["utun", "utun1;x", "../utun1", "en0", "utun12345", ""].some(isTunnelName)).toBe(false);
  });
});

describe("a platform that was never tried", () => {
  test("is asked for deliberately, and says what to type; Linux is not asked", () => {
    expect(() => requireAskedFor("macos", false, "run a client")).toThrow("never run on a real one");
    expect(() => requireAskedFor("macos", true, "run a client")).not.toThrow();
    expect(() => requireAskedFor("linux", false, "run a client")).not.toThrow();
  });

  test("has folders that its root file system takes", () => {
    expect(platformOf("darwin")).toBe("macos");
    expect(usualDirs("macos").run).toBe("/var/run/higgs");
    expect(usualDirs("linux").run).toBe("/run/higgs");
  });
});
