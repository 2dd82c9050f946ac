// `higgs doctor` on machines of the lab: well, then with other programs in the way, and with a server that is gone.
import { afterAll, beforeAll, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { HIGGS, startClientLab, startNetwork } from "./client-lab.ts";
import { snapshot } from "./harness.ts";

const MINUTE = 60_000;

interface Finding {
  readonly area: string;
  readonly severity: string;
  readonly code: string;
  readonly text: string;
  readonly remedy: string | null;
}

let lab: Lab;
let network: Awaited<ReturnType<typeof startNetwork>>;
beforeAll(async () => {
  lab = await startClientLab();
  network = await startNetwork(lab);
}, MINUTE);
afterAll(() => lab[Symbol.asyncDispose]());

async function doctor(host: LabHost): Promise<{ readonly code: number; readonly findings: readonly Finding[] }> {
  const { code, stdout, stderr } = await host.exec([HIGGS, "doctor", "--json"], { timeoutMs: 30_000 });
  expect(stderr).toBe("");
  return { code, findings: (JSON.parse(stdout) as { findings: readonly Finding[] }).findings };
}

const codesOf = (findings: readonly Finding[]): string[] => findings.map(({ area, code }) => `${area} ${code}`);

test(
  "finds nothing on machines that are well, and changes nothing",
  async () => {
    for (const name of ["vps", "home-pc", "laptop"]) {
      const host = lab.host(name);
      const before = await snapshot(host);
      expect([name, await doctor(host)]).toEqual([name, { code: 0, findings: [] }]);
      expect(await snapshot(host)).toBe(before);
    }
  },
  MINUTE,
);

test(
  "sees a host firewall of the new kind and of the old, another tunnel, and a rule that decides before ours",
  async () => {
    const home = lab.host("home-pc");
    await home.execOrThrow(["iptables", "-N", "ufw-before-forward"]);
    await home.execOrThrow(["iptables-legacy", "-P", "FORWARD", "DROP"]);
    await home.execOrThrow(["ip", "route", "add", "default", "via", "192.168.1.1", "table", "200"]);
    await home.execOrThrow(["ip", "rule", "add", "pref", "100", "lookup", "200"]);
    const laptop = lab.host("laptop");
    await laptop.execOrThrow(["ip", "tuntap", "add", "dev", "tun9", "mode", "tun"]);
    await laptop.execOrThrow(["ip", "link", "set", "tun9", "up"]);
    await laptop.execOrThrow(["ip", "route", "add", "default", "via", "192.168.7.1", "table", "51820"]);
    await laptop.execOrThrow(["ip", "rule", "add", "not", "fwmark", "51820", "pref", "5209", "lookup", "51820"]);
    const atHome = await doctor(home);
    // The node itself tells of its exit once it has seen the rule.
    expect(codesOf(atHome.findings).filter((code) => code !== "reachability exit-not-ready")).toEqual([
      "firewall rule-before-ours",
      "firewall ufw",
      "firewall legacy-forward-drop",
    ]);
    expect(atHome.code).toBe(1);
    const away = await doctor(laptop);
    expect(codesOf(away.findings)).toEqual(["firewall rule-before-ours", "firewall other-tunnel"]);
    expect(away.findings[0]?.text).toContain("preference 5209, table 51820");
    const said = await laptop.exec([HIGGS, "doctor"]);
    expect(said.stdout).toContain("sudo wg-quick down eth0");
    await home.execOrThrow(["iptables-legacy", "-P", "FORWARD", "ACCEPT"]);
    await home.execOrThrow(["iptables", "-X", "ufw-before-forward"]);
    await home.execOrThrow(["ip", "rule", "del", "pref", "100"]);
    await home.execOrThrow(["ip", "route", "flush", "table", "200"]);
    await laptop.execOrThrow(["ip", "link", "del", "tun9"]);
    await laptop.execOrThrow(["ip", "rule", "del", "pref", "5209"]);
  },
  MINUTE,
);

test(
  "tells of a network that uses the same addresses, of a tool that is missing, and of a server that is gone",
  async () => {
    const laptop = lab.host("laptop");
    await laptop.execOrThrow(["ip", "route", "add", "10.64.0.0/10", "via", "192.168.7.1"]);
    network.server.kill("SIGKILL");
    await network.server.exited;
    const { code, findings } = await doctor(laptop);
    // One for each name of the server.
    expect([...new Set(codesOf(findings))]).toEqual(["addresses range-clash", "reachability server-unreachable"]);
    expect(code).toBe(1);
    const unprivileged = await laptop.exec([
      "setpriv",
      "--reuid=65534",
      "--regid=65534",
      "--clear-groups",
      HIGGS,
      "doctor",
    ]);
    expect(unprivileged.stdout).toContain("CAP_NET_ADMIN");
    await laptop.execOrThrow(["mount", "-t", "tmpfs", "none", "/usr/sbin"]);
    const without = await laptop.exec([HIGGS, "doctor"], { timeoutMs: 30_000 });
    expect(without.stdout).toContain("nftables");
  },
  MINUTE,
);

test(
  "names what a role left that was killed, until it is cleaned",
  async () => {
    const home = lab.host("home-pc");
    network.node.kill("SIGKILL");
    await network.node.exited;
    const { code, findings } = await doctor(home);
    const left = findings.find((finding) => finding.code === "leftovers");
    expect(code).toBe(1);
    expect(left?.text).toContain("The node does not run, and left: interface higgsn0");
    expect(left?.text).toContain("nft table inet higgs_node");
    expect(left?.remedy).toBe("sudo higgs state clean --role node");
    await home.execOrThrow([HIGGS, "state", "clean", "--role", "node"]);
    expect(codesOf((await doctor(home)).findings)).not.toContain("leftovers leftovers");
  },
  MINUTE,
);
