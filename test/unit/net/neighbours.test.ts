import { describe, expect, test } from "bun:test";
import { IDENTIFIERS } from "../../../src/net/identifiers.ts";
import { type NeighbourEvidence, neighboursIn } from "../../../src/net/neighbours.ts";

const OURS = Object.values(IDENTIFIERS);
const NOTHING: NeighbourEvidence = { ruleset: { nftables: [] }, legacy: { 4: null, 6: null }, links: [], rules: [] };
const found = (evidence: Partial<NeighbourEvidence>) => neighboursIn({ ...NOTHING, ...evidence }, OURS);

function chains(table: string, ...names: readonly string[]): unknown {
  return {
    nftables: [
      { metainfo: { json_schema_version: 1 } },
      { table: { family: "ip", name: table, handle: 1 } },
      ...names.map((name, i) => ({ chain: { family: "ip", table, name, handle: i + 2 } })),
    ],
  };
}

function link(ifname: string, kind: string | null, ...flags: readonly string[]): unknown {
  return { ifname, flags, ...(kind === null ? {} : { linkinfo: { info_kind: kind } }) };
}

describe("neighboursIn()", () => {
  test("finds nobody on a machine with its own tables and rules alone", () => {
    const ruleset = chains("higgs_client", "output", "input", "forward");
    expect(found({ ruleset, links: [link("lo", null, "UP"), link("higgs0", "wireguard", "UP")] })).toEqual([]);
    expect(found({ ruleset: null })).toEqual([]);
  });

  test("knows the firewalls by the names of their chains and tables", () => {
    expect(found({ ruleset: chains("filter", "FORWARD", "ufw-before-forward") })).toEqual([{ kind: "ufw" }]);
    expect(found({ ruleset: chains("firewalld", "filter_FORWARD") })).toEqual([{ kind: "firewalld" }]);
    expect(found({ ruleset: chains("nat", "DOCKER") })).toEqual([{ kind: "docker" }]);
    expect(found({ ruleset: chains("filter", "DOCKER-USER") })).toEqual([{ kind: "docker" }]);
    expect(found({ ruleset: chains("filter", "DOCKERFILE", "my-ufw-notes") })).toEqual([]);
    expect(found({ ruleset: chains("filter", "LIBVIRT_FWO") })).toEqual([{ kind: "libvirt" }]);
  });

  test("reads the tables of the old iptables, which nft does not show", () => {
    const legacy = {
      4: "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:ufw-user-input - [0:0]\nCOMMIT\n",
      6: null,
    };
    expect(found({ legacy })).toEqual([{ kind: "ufw" }, { kind: "legacy-forward-drop", family: 4 }]);
    expect(found({ legacy: { 4: null, 6: "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n" } })).toEqual([]);
  });

  test("knows other tunnels that are up, and no virtual machine's card", () => {
    const links = [
      link("wg0", "wireguard", "POINTOPOINT", "UP"),
      link("wg1", "wireguard", "POINTOPOINT"),
      link("tun0", "tun", "POINTOPOINT", "UP"),
      link("vnet0", "tun", "BROADCAST", "UP"),
      link("higgsn0", "tun", "POINTOPOINT", "UP"),
      link("eth0", null, "BROADCAST", "UP"),
    ];
    expect(found({ links })).toEqual([
      { kind: "tunnel", interface: "wg0" },
      { kind: "tunnel", interface: "tun0" },
    ]);
  });
});
