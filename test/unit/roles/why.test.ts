import { describe, expect, test } from "bun:test";
import type { Endpoint, IpAddress } from "../../../src/base/ip.ts";
import type { PathView } from "../../../src/peer/path-agent.ts";
import { FULL_BYTES } from "../../../src/peer/path-check.ts";
import { fresh, type PathInfo } from "../../../src/peer/path-info.ts";
import type { SideView } from "../../../src/peer/side-plan.ts";
import type { RouterPortView } from "../../../src/peer/router-port.ts";
import type { NatView } from "../../../src/peer/stun-client.ts";
import { type Evidence, explain } from "../../../src/roles/why.ts";

const place = (address: string, port = 51_820): Endpoint => ({ address: address as IpAddress, port });
const AT = 100_000;
const NAT: NatView = { udp: true, mapped4: place("198.51.100.1", 40_000), mapped6: null, varies: false, servers: [] };

function tried(address: string, more: Partial<PathInfo> = {}): PathInfo {
  const endpoint = place(address);
  return { ...fresh({ key: `${address}:51820`, kind: "direct", endpoint, lan: false }), unanswered: 7, ...more };
}

function view(more: Partial<PathView> = {}): PathView {
  return {
    kind: "wss",
    endpoint: null,
    sinceMs: 0,
    rttMs: null,
    reason: "the relay carries every session first",
    sizeBytes: null,
    tried: [],
    ...more,
  };
}

const why = (seen: PathView | null, nat: NatView | null = NAT, more: Partial<Evidence> = {}) =>
  explain({
    peer: "home",
    view: seen,
    nat,
    routerPort: null,
    told: [],
    withheld: null,
    proxy: null,
    sharing: "nft",
    at: AT,
    ...more,
  });
const proxied = (nat: NatView | null) => why(view(), nat, { proxy: "192.168.7.3:3128" });

describe("explain()", () => {
  test("a direct path needs no remedy", () => {
    const got = why(view({ kind: "direct", endpoint: place("198.51.100.2"), rttMs: 3.14, reason: "it answered" }));
    expect(got).toEqual({
      path: "direct",
      causes: ["Packets to home go directly by 198.51.100.2:51820, round trip 3.1 ms: it answered."],
      remedies: [],
    });
  });

  test("a relay that is withheld is the first cause, and told beside a direct path too", () => {
    const withheld = { code: "relay-quota", text: '"home" has used up the 1 GB', untilMs: Date.UTC(2026, 11) };
    expect(why(view(), NAT, { withheld }).causes[1]).toBe(
      'No relay of the server carries them until 2026-12-01T00:00:00.000Z: "home" has used up the 1 GB.',
    );
    expect(why(null, NAT, { withheld }).causes[1]).toContain("No relay of the server carries them");
    const direct = why(view({ kind: "direct", endpoint: place("198.51.100.2") }), NAT, { withheld });
    expect(direct.causes[1]).toContain("Should that end, nothing carries them until 2026-12-01");
    expect(direct.remedies).toEqual([]);
  });

  test("no search for paths", () => {
    const got = why(null);
    expect(got.path).toBe("wss");
    expect(got.causes).toHaveLength(1);
    expect(got.remedies[0]).toContain("--paths");
  });

  test("UDP that does not get out, and nothing else to mend", () => {
    const got = why(view(), { udp: false, mapped4: null, mapped6: null, varies: null, servers: [] });
    expect(got.causes.some((cause) => cause.includes("UDP does not get out"))).toBe(true);
    expect(got.remedies).toEqual(["Let UDP out of this network, or use another one."]);
  });

  test("a bridge, where a path without the WebSocket goes by it", () => {
    const direct = view({ kind: "direct", endpoint: place("198.51.100.2") });
    expect(why(direct, NAT, { sharing: "bridge" }).causes.at(-1)).toContain("(bridge), as nft does no work");
    expect(why(view(), NAT, { sharing: "bridge" }).causes.join()).not.toContain("bridge");
  });

  test("STUN alone that does not get out, and a peer whose network lets no UDP out", () => {
    const noStun = { ...NAT, udp: false, mapped4: null, varies: null };
    const relayed = why(view({ kind: "udp-relay", endpoint: place("203.0.113.10") }), noStun);
    expect(relayed.causes.join("\n")).toContain("though other UDP gets out");
    expect(relayed.remedies[0]).toBe("Let UDP out of this network to the server's ports 3478 and 3479.");
    const silent = tried("203.0.113.10");
    const relay: PathInfo = { ...silent, target: { ...silent.target, kind: "udp-relay" } };
    const blocked = why(view({ tried: [relay] }));
    expect(blocked.causes.at(-1)).toContain("UDP does not seem to get out of its network");
    expect(blocked.remedies).toEqual(["Let UDP out of home's network, or use another one there."]);
    const before = why(view({ tried: [{ ...relay, lostAt: AT - 5_000 }] }));
    expect(before.causes.join()).not.toContain("its network");
  });

  test("a proxy before the server, with UDP that does not get out, or with an address that only the proxy knows", () => {
    const blocked = proxied({ udp: false, mapped4: null, mapped6: null, varies: null, servers: [] });
    expect(blocked.causes[1]).toBe(
      "This machine reaches the server through the proxy 192.168.7.3:3128, which lets nothing but TCP through.",
    );
    expect(blocked.causes[2]).toContain("UDP does not get out");
    expect(proxied(null).causes[2]).toContain("the proxy alone knows");
    expect(proxied(null).remedies).toEqual(["Let UDP out of this network, or use another one."]);
  });

  test("a router that nobody can foresee, and every address that was tried", () => {
    const seen = view({
      kind: "udp-relay",
      endpoint: place("203.0.113.10"),
      tried: [
        tried("198.51.100.2"),
        tried("198.51.100.3", { answeredAt: AT - 100_000 }),
        tried("198.51.100.4", { answeredAt: AT, sizeBytes: FULL_BYTES, rttMs: 12 }),
      ],
    });
    const got = why(seen, { ...NAT, varies: true, servers: [] });
    expect(got.causes[0]).toStartWith("Packets to home go through the server's UDP relay by 203.0.113.10:51820");
    expect(got.causes).toContain("The server sees this machine at 198.51.100.1:40000.");
    expect(got.causes.some((cause) => cause.includes("a port of its own"))).toBe(true);
    expect(got.causes).toContain("198.51.100.2:51820 does not answer (7 checks).");
    expect(got.causes.some((cause) => cause.startsWith("198.51.100.3:51820 answers small packets"))).toBe(true);
    expect(got.causes).toContain("198.51.100.4:51820 answers in 12.0 ms.");
    expect(got.remedies.at(-1)).toContain("--endpoint");
  });

  test("a path that loses full packets is named first among what can be mended", () => {
    const got = why(view({ tried: [tried("198.51.100.2", { answeredAt: AT, sizeBytes: 0 })] }));
    expect(got.causes).toContain("198.51.100.2:51820 answers small packets, and full ones are lost.");
    expect(got.remedies[0]).toContain("MTU");
  });

  test("bug: a path that was given up is said to have answered before, not to lose full packets", () => {
    const got = why(view({ tried: [tried("198.51.100.2", { lostAt: AT - 5_000 })] }));
    expect(got.causes).toContain("198.51.100.2:51820 answered before, and does no more.");
    expect(got.remedies.some((remedy) => remedy.includes("MTU"))).toBe(false);
  });

  test("a peer without addresses, and a server that was not asked", () => {
    const got = why(view(), null);
    expect(got.causes).toContain("home has told no address that could be tried.");
    expect(got.causes).toContain("The server was not asked yet how it sees this machine.");
  });

  test("what the routers map, and a mapping that does not answer", () => {
    const router = "192.168.7.1" as IpAddress;
    const external = place("198.51.100.1", 7);
    const ours = (routerPort: RouterPortView) => why(view(), NAT, { routerPort }).causes.join(" ");
    expect(ours({ state: "mapped", router, protocol: "pcp", external })).toContain("forwards 198.51.100.1:7 to this");
    expect(ours({ state: "none", router })).toContain("at 192.168.7.1 maps no port");
    expect(ours({ state: "elsewhere", router, external })).toContain("by which nobody sees this machine");
    expect(ours({ state: "off" })).not.toContain("router");
    const theirs = why(view(), NAT, { told: [{ kind: "mapped", endpoint: "198.51.100.2:51820" }] });
    expect(theirs.causes).toContain("The router of home says that it forwards 198.51.100.2:51820 to it.");
    expect(theirs.remedies.join(" ")).not.toContain("switch on UPnP");
    expect(theirs.remedies[0]).toContain("198.51.100.2:51820");
  });

  test("both families, and every sentence is one", () => {
    const got = why(view({ tried: [tried("198.51.100.2")] }), { ...NAT, mapped6: place("2001:db8::1", 1) });
    expect(got.causes).toContain("The server sees this machine at [2001:db8::1]:1.");
    for (const sentence of got.causes) expect(sentence).toMatch(/^\S.*\.$/);
  });

  describe("names what other ports were tried", () => {
    const NONE: SideView = { own: "preserved", peer: "preserved", tried: [], found: null, probes: 0, off: null };
    const causes = (side: Partial<SideView>): string =>
      why(view({ kind: "udp-relay", endpoint: place("203.0.113.10"), side: { ...NONE, ...side } })).causes.join("\n");

    test("guessed in vain, at either end", () => {
      const easy = causes({ peer: "random", tried: ["guessed"], probes: 2_048 });
      expect(easy).toContain("home's router gives every destination another port.");
      expect(easy).toContain("2048 ports of home's router were guessed, in vain.");
      expect(causes({ own: "random", tried: ["guessed"] })).toContain("Ports were opened for home to guess, in vain.");
    });

    test("foreseen and fresh ones in vain", () => {
      expect(causes({ own: "sequential", tried: ["predicted"] })).toContain("foreseen, in vain");
      expect(causes({ tried: ["fresh"] })).toContain("Fresh ports at both ends did not help.");
    });

    test("not at all between two of that kind", () => {
      expect(causes({ own: "random", peer: "sequential" })).toContain("no port can be guessed in reasonable time");
    });

    test("not at all when a person wants none, and then how to have it", () => {
      for (const [off, who] of [
        ["here", "this machine"],
        ["peer", "home"],
      ] as const) {
        const side: SideView = { ...NONE, peer: "random", off };
        const got = why(view({ kind: "udp-relay", endpoint: place("203.0.113.10"), side }));
        expect(got.causes.join("\n")).toContain("--no-port-guessing");
        expect(got.remedies[0]).toBe(`Start ${who} without --no-port-guessing.`);
      }
      expect(causes({ off: "here" })).not.toContain("--no-port-guessing");
    });

    test("a direct path that was found by them, and a list of foreseen ports by its length", () => {
      const side: SideView = { ...NONE, peer: "random", tried: ["guessed"], found: "guessed", probes: 370 };
      const got = why(view({ kind: "direct", endpoint: place("198.51.100.2"), reason: "it answered", side }));
      expect(got.causes[1]).toContain("met by guessing, after 370 ports");
      const many = Array.from({ length: 9 }, (_, i) => tried(`198.51.100.${i}`));
      const silent = why(view({ kind: "udp-relay", endpoint: place("203.0.113.10"), tried: many }));
      expect(silent.causes.filter((cause) => cause.includes("does not answer"))).toHaveLength(6);
      expect(silent.causes).toContain("3 more addresses do not answer.");
    });
  });
});
