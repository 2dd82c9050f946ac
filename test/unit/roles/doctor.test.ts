import { describe, expect, test } from "bun:test";
import type { Cidr } from "../../../src/base/ip.ts";
import { type DoctorFacts, doctorFindings, type RoleFacts } from "../../../src/roles/doctor.ts";

const WELL: DoctorFacts = {
  platform: "linux",
  missingTools: [],
  hasIptables: false,
  privileges: { netAdmin: true, tunProblem: null },
  isRoot: true,
  wireGuard: ["carried"],
  neighbours: [],
  forwardDrops: [],
  prefixes: [{ interface: "eth0", prefix: "192.168.1.0/24" as Cidr }],
  roles: [],
};
const ROLE: RoleFacts = {
  role: "node",
  isRunning: true,
  ranges: ["10.83.0.0/16" as Cidr, "fd83:1:2::/48" as Cidr],
  left: [],
  servers: [{ name: "vps.example:443", trouble: null }],
  health: [],
};
const NODE = { ...WELL, roles: [ROLE] };
const CLIENT = { ...WELL, roles: [{ ...ROLE, role: "client" as const }] };
const codes = (facts: DoctorFacts): string[] =>
  doctorFindings(facts).map(({ area, severity, code }) => `${area} ${severity} ${code}`);

describe("doctorFindings()", () => {
  test("says nothing of a machine that has all it needs", () => {
    expect(doctorFindings(WELL)).toEqual([]);
    expect(doctorFindings(NODE)).toEqual([]);
    expect(
      doctorFindings({ ...WELL, wireGuard: ["kernel"], privileges: { netAdmin: true, tunProblem: "absent" } }),
    ).toEqual([]);
  });

  test("says first of all that higgs was never run on this platform, where it was not", () => {
    expect(codes({ ...WELL, platform: "macos" })).toEqual(["tools high platform-untested"]);
    expect(doctorFindings({ ...WELL, platform: "windows" })[0]?.text).toContain("never run on a real one");
  });

  test("asks for an elevated prompt on Windows, and for no WireGuard of Linux' kinds", () => {
    const privileges = { netAdmin: false, tunProblem: null };
    const windows: DoctorFacts = { ...WELL, platform: "windows", wireGuard: [], isRoot: false, privileges };
    expect(codes(windows)).toEqual(["tools high platform-untested", "privileges medium privilege-missing"]);
    expect(doctorFindings(windows)[1]?.remedy).toContain("Run as administrator");
  });

  test("names a missing tool with what it is for and how it comes", () => {
    const missingTools = [
      { tool: "ping", remedy: "sudo apt install ping" },
      { tool: "wg", remedy: "sudo apt install wg" },
    ];
    expect(codes({ ...WELL, missingTools })).toEqual(["tools high tool-missing", "tools low tool-missing"]);
    const nft = [{ tool: "nft", remedy: "sudo apt install nftables" }];
    expect(codes({ ...WELL, missingTools: nft })).toEqual(["tools high tool-missing"]);
    expect(codes({ ...WELL, missingTools: nft, hasIptables: true })).toEqual(["tools low tool-missing"]);
    expect(doctorFindings({ ...WELL, missingTools })[0]).toMatchObject({ remedy: "sudo apt install wg" });
  });

  test("tells what this process may not see, and blames no device for it", () => {
    const privileges = { netAdmin: false, tunProblem: "refused" } as const;
    expect(codes({ ...WELL, privileges, isRoot: false, neighbours: null })).toEqual([
      "privileges medium privilege-missing",
      "firewall low firewall-unread",
    ]);
    expect(codes({ ...WELL, isRoot: false })).toEqual(["privileges low not-root"]);
  });

  test("finds that no WireGuard can be had", () => {
    expect(codes({ ...WELL, wireGuard: [] })).toEqual(["wireguard high wireguard-unavailable"]);
    const privileges = { netAdmin: true, tunProblem: "absent" } as const;
    expect(codes({ ...WELL, privileges })).toEqual(["wireguard high tun-missing"]);
  });

  test("tells an exit how each firewall lets it through, and a client of what goes around it", () => {
    const neighbours = [
      { kind: "ufw" },
      { kind: "docker" },
      { kind: "libvirt" },
      { kind: "tunnel", interface: "wg0" },
      { kind: "rule-before-ours", rule: { pref: 100, table: "200", interface: "wg0" } },
    ] as const;
    expect(codes({ ...NODE, neighbours })).toEqual([
      "firewall high rule-before-ours",
      "firewall medium ufw",
      "firewall medium docker",
    ]);
    expect(codes({ ...CLIENT, neighbours })).toEqual(["firewall high rule-before-ours", "firewall low other-tunnel"]);
  });

  test("tells an exit of a firewall that nobody knows by what it does", () => {
    const forwardDrops = ['The chain "FORWARD" of the nft table "ip mine" drops what this machine forwards.'];
    expect(codes({ ...NODE, forwardDrops })).toEqual(["firewall high forward-dropped"]);
    expect(codes({ ...NODE, forwardDrops, neighbours: [{ kind: "ufw" }] })).toEqual(["firewall medium ufw"]);
    expect(codes({ ...CLIENT, forwardDrops })).toEqual([]);
  });

  test("finds addresses that two networks use", () => {
    const prefixes = [{ interface: "wg0", prefix: "10.83.4.0/24" as Cidr }];
    const [clash] = doctorFindings({ ...NODE, prefixes });
    expect(clash).toMatchObject({ area: "addresses", severity: "high", code: "range-clash" });
    expect(clash?.text).toContain("10.83.4.0/24 by wg0");
  });

  test("names what a role left that does not run, and nothing of one that does", () => {
    const left = ["the interface higgsn0"];
    expect(codes({ ...WELL, roles: [{ ...ROLE, left }] })).toEqual([]);
    const [finding] = doctorFindings({ ...WELL, roles: [{ ...ROLE, isRunning: false, left }] });
    expect(finding).toMatchObject({ code: "leftovers", remedy: "sudo higgs state clean --role node" });
  });

  test("passes on why a server is not reached, and what a running role says of itself", () => {
    const trouble = { code: "server-unreachable", text: "Cannot reach it.", remedy: "Look." };
    const health = [{ code: "relay-lost", severity: "medium" as const, text: "The relay is away.", remedy: null }];
    const servers = [{ name: "vps.example:443", trouble }];
    const found = doctorFindings({ ...WELL, roles: [{ ...ROLE, servers, health }] });
    expect(found.map(({ code, text }) => [code, text])).toEqual([
      ["server-unreachable", "vps.example:443: Cannot reach it."],
      ["relay-lost", "The relay is away."],
    ]);
    const both = { ...WELL, roles: [{ ...ROLE, servers: [...ROLE.servers, ...servers] }] };
    expect(codes(both)).toEqual(["reachability low server-unreachable"]); // by its other name
  });
});
