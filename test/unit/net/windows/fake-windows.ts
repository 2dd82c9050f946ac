// A Windows machine in memory: understands exactly the commands that higgs gives, answers as their documentation has it, and prints itself.
//
// Names and values are those of the examples at learn.microsoft.com (Get-NetIPInterface, Get-NetRoute, Get-NetIPAddress,
// Get-NetFirewallProfile) and of wireguard-windows' docs/enterprise.md; none of it was recorded on a real machine.
import { existsSync, readFileSync } from "node:fs";
import { basename } from "node:path";
import { z } from "zod";
import { utf8Text } from "../../../../src/base/bytes.ts";
import type { Exec, ExecResult } from "../../../../src/net/exec.ts";
import type { WindowsRule } from "../../../../src/net/firewall/windows-rules.ts";
import { WINDOWS_SCRIPTS, type WindowsScript } from "../../../../src/net/windows-scripts.ts";
import type { WindowsNetwork } from "../../../../src/net/windows-network.ts";

interface Profile {
  enabled: string;
  outbound: string;
}

interface Peer {
  endpoint: string;
  allowedIps: string;
  keepalive: string;
}

interface Tunnel {
  readonly key: string;
  readonly port: string;
  readonly peers: Map<string, Peer>;
}

/** "killed": it does its work, and nobody is left who would see that, or give another command. */
export type Failure = "before" | "after" | "killed";

const READS = /^(?:powershell read-|powershell list-|wg show |ping )/;
const TUNNEL_INDEX = 42;

export class FakeWindows implements Exec {
  /** As a person would read them: a script by its name and parameters. */
  readonly calls: string[] = [];
  readonly rules = new Map<string, WindowsRule & { readonly group: string }>();
  readonly profiles = new Map<string, Profile>([
    ["Domain", { enabled: "True", outbound: "NotConfigured" }],
    ["Private", { enabled: "True", outbound: "NotConfigured" }],
    ["Public", { enabled: "True", outbound: "NotConfigured" }],
  ]);
  readonly names: { name: string; namespaces: readonly string[]; servers: readonly string[]; comment: string }[] = [];
  readonly services = new Map<string, string>();
  readonly tunnels = new Map<string, Tunnel>();
  readonly dnsServers = new Map<string, string[]>();
  network: WindowsNetwork = atHome();
  /** The configuration that the tunnel service was given, whole. */
  conf = "";
  localRules = "True";
  /** As machines that people recorded list it. */
  exempt: readonly string[] = ["NotConfigured"];
  isElevated = true;
  /** Which of the commands that change something fails, counted from 1; "after": it has done its work all the same. */
  failure: { readonly at: number; readonly when: Failure } | null = null;
  changes = 0;
  isKilled = false;
  /** Which of all commands fails without doing anything, reading ones too. */
  failingCall = 0;
  asked = 0;

  async run(argv: readonly [string, ...string[]], options: { readonly stdin?: string } = {}): Promise<ExecResult> {
    if (options.stdin !== undefined) throw new Error(`unexpected standard input for ${argv.join(" ")}`);
    if (this.isKilled) throw new Error("killed");
    const shown = shownCall(argv);
    this.calls.push(shown);
    if (this.failingCall === ++this.asked) return result(1, "", "The RPC server is unavailable.");
    if (READS.test(shown)) return this.#answer(argv);
    this.changes++;
    const isFailing = this.failure?.at === this.changes;
    if (isFailing && this.failure?.when === "before") return result(1, "", "Access is denied.");
    const answer = this.#answer(argv);
    if (isFailing && this.failure?.when === "killed") {
      this.isKilled = true;
      throw new Error("killed");
    }
    return isFailing ? result(1, "", "The operation was canceled by the user.") : answer;
  }

  /** The commands that change something, since the last call. */
  takeCalls(): string {
    const text = `${this.calls.join("\n")}\n`;
    this.calls.length = 0;
    return text;
  }

  printed(): string {
    const { network } = this;
    return [
      ...[...this.services].map(([name, state]) => `service ${name} ${state}`),
      ...[...this.tunnels].map(
        ([name, { port, peers }]) => `tunnel ${name} port ${port} ${JSON.stringify([...peers])}`,
      ),
      ...network.interfaces.map(({ index, alias, family }) => `interface ${index} ${family} ${alias}`),
      ...network.addresses.map(({ index, address }) => `address ${index} ${address}`),
      ...network.routes.map(({ index, prefix, nextHop, metric }) => `route ${prefix} ${nextHop} ${index} ${metric}`),
      ...[...this.rules.values()].map((rule) => `rule ${JSON.stringify(rule)}`),
      ...[...this.profiles].map(([name, profile]) => `profile ${name} ${profile.enabled} ${profile.outbound}`),
      ...this.names.map((rule) => `names ${JSON.stringify(rule)}`),
      ...[...this.dnsServers].map(([name, servers]) => `servers ${name} ${servers.join(" ")}`),
      `configuration ${this.conf !== "" && existsSync(this.#confPath) ? "there" : "gone"}`,
      "",
    ].join("\n");
  }

  #confPath = "";

  #answer(argv: readonly [string, ...string[]]): ExecResult {
    const asked = scriptOf(argv);
    if (asked !== null) return this.#script(asked.script, asked.parameters);
    const [tool, ...args] = argv;
    if (tool === "netsh") return this.#netsh(args);
    if (tool === "wireguard") return this.#wireguard(args);
    if (tool === "wg") return this.#wg(args);
    if (tool === "icacls" && existsSync(args[0] ?? "")) return result(0);
    if (tool === "sc" && args[0] === "config" && this.services.has(args[1] ?? "")) return result(0);
    if (tool === "ping") return result(0, "Reply from 10.83.0.1: bytes=32 time=12ms TTL=64\r\n");
    throw new Error(`unexpected command: ${shownCall(argv)}`);
  }

  #script(script: WindowsScript, p: Readonly<Record<string, unknown>>): ExecResult {
    switch (script) {
      case "read-network":
        return json(this.network);
      case "read-firewall":
        return json({
          rules: [...this.rules.values()]
            .filter(({ group }) => group === p["group"])
            .map(({ Name, Direction, Action }) => ({
              name: Name,
              enabled: "True",
              direction: Direction,
              action: Action,
            })),
          profiles: [...this.profiles].map(([name, { enabled, outbound }]) => ({
            name,
            enabled: enabled === "NotConfigured" ? "True" : enabled,
            outbound: outbound === "NotConfigured" ? "Allow" : outbound,
            ownEnabled: enabled,
            ownOutbound: outbound,
            localRules: this.localRules,
            without: this.exempt,
          })),
        });
      case "add-firewall-rules": {
        const { group, rules } = addition.parse(p);
        for (const rule of rules) {
          if (this.rules.has(rule.Name)) return result(1, "", "Cannot create a file when that file already exists.");
          this.rules.set(rule.Name, { ...(rule as unknown as WindowsRule), group });
        }
        return result(0);
      }
      case "remove-firewall-rules": {
        const names = z.array(z.string()).parse(p["names"]);
        const ours = [...this.rules.values()].filter(({ group, Name }) => group === p["group"] && names.includes(Name));
        for (const { Name } of ours) this.rules.delete(Name);
        return json({ count: ours.length });
      }
      case "remove-firewall-group": {
        const ours = [...this.rules.values()].filter(({ group }) => group === p["group"]);
        for (const { Name } of ours) this.rules.delete(Name);
        return json({ count: ours.length });
      }
      case "set-firewall-profiles":
        for (const { name, enabled, outbound } of settings.parse(p["profiles"]))
          this.profiles.set(name, { enabled, outbound });
        return result(0);
      case "read-dns":
        return json({
          rules: this.names.filter(({ comment }) => comment === p["comment"]),
          servers: this.dnsServers.get(String(p["interface"])) ?? [],
        });
      case "add-dns-rule": {
        const name = `{00000000-0000-0000-0000-00000000000${this.names.length}}`;
        this.names.push({
          name,
          namespaces: ["."],
          servers: z.array(z.string()).parse(p["servers"]),
          comment: String(p["comment"]),
        });
        return result(0);
      }
      case "remove-dns-rules": {
        const kept = this.names.filter(({ comment }) => comment !== p["comment"]);
        const count = this.names.length - kept.length;
        this.names.splice(0, this.names.length, ...kept);
        return json({ count });
      }
      case "read-service":
        return json({ state: this.services.get(String(p["name"])) ?? "Absent" });
      case "read-privileges":
        return json({ elevated: this.isElevated });
      case "read-process":
      case "list-processes":
        throw new Error(`${script} is not asked of this machine`);
    }
  }

  /** `netsh interface ipv4 add route prefix=… interface=… [nexthop=…] metric=… store=active`, and the same for names. */
  #netsh([area, ip, verb, what, ...pairs]: readonly string[]): ExecResult {
    const given = new Map(pairs.map((pair) => [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)]));
    if (area !== "interface" || (ip !== "ipv4" && ip !== "ipv6")) throw new Error(`unexpected netsh ${area} ${ip}`);
    if (what === "dnsservers") {
      const name = given.get("name") ?? "";
      if (!this.tunnels.has(name))
        return result(1, "The filename, directory name, or volume label syntax is incorrect.");
      const isV4 = (server: string): boolean => !server.includes(":");
      const others = (this.dnsServers.get(name) ?? []).filter(
        (server) => verb === "add" || isV4(server) !== (ip === "ipv4"),
      );
      this.dnsServers.set(name, [...others, given.get("address") ?? ""]);
      return result(0);
    }
    const index = Number(given.get("interface"));
    const prefix = given.get("prefix") ?? "";
    const nextHop = given.get("nexthop") ?? (ip === "ipv4" ? "0.0.0.0" : "::");
    const at = this.network.routes.findIndex(
      (one) => one.index === index && one.prefix === prefix && one.nextHop === nextHop,
    );
    if (what !== "route" || given.get("store") !== "active") throw new Error(`unexpected netsh ${verb} ${what}`);
    if (verb === "add") {
      if (at >= 0) return result(1, "The object already exists.");
      this.network.routes.push({ index, prefix, nextHop, metric: Number(given.get("metric")) });
      return result(0);
    }
    if (at < 0) return result(1, "Element not found.");
    this.network.routes.splice(at, 1);
    return result(0);
  }

  #wireguard([verb, argument = ""]: readonly string[]): ExecResult {
    if (verb === "/uninstalltunnelservice") {
      if (!this.services.delete(`WireGuardTunnel$${argument}`))
        return result(1, "", "The specified service does not exist as an installed service.");
      this.tunnels.delete(argument);
      this.dnsServers.delete(argument);
      const { network } = this;
      this.network = {
        interfaces: network.interfaces.filter(({ index }) => index !== TUNNEL_INDEX),
        routes: network.routes.filter(({ index }) => index !== TUNNEL_INDEX),
        addresses: network.addresses.filter(({ index }) => index !== TUNNEL_INDEX),
      };
      return result(0);
    }
    if (verb !== "/installtunnelservice") throw new Error(`unexpected wireguard ${verb}`);
    this.#confPath = argument;
    this.conf = readFileSync(argument, "utf8");
    const of = (key: string): string => new RegExp(`^${key} = (.*)\r$`, "m").exec(this.conf)?.[1] ?? "";
    const name = basename(argument, ".conf");
    this.services.set(`WireGuardTunnel$${name}`, "Running");
    this.tunnels.set(name, { key: of("PrivateKey"), port: of("ListenPort"), peers: new Map() });
    for (const family of ["IPv4", "IPv6"] as const) {
      this.network.interfaces.push({
        index: TUNNEL_INDEX,
        alias: name,
        family,
        metric: 5,
        mtu: Number(of("MTU")),
        forwarding: "Disabled",
        connected: "Connected",
      });
    }
    for (const cidr of of("Address").split(", ")) {
      const [address = "", length = ""] = cidr.split("/");
      this.network.addresses.push({
        index: TUNNEL_INDEX,
        address,
        prefixLength: Number(length),
        origin: "Manual",
        state: "Preferred",
      });
      this.network.routes.push({
        index: TUNNEL_INDEX,
        prefix: cidr,
        nextHop: address.includes(":") ? "::" : "0.0.0.0",
        metric: 256,
      });
    }
    return result(0);
  }

  #wg([verb, name = "", ...rest]: readonly string[]): ExecResult {
    const tunnel = this.tunnels.get(name);
    if (tunnel === undefined)
      return result(1, "", `Unable to access interface: The system cannot find the file specified.`);
    if (verb === "show") {
      if (rest[0] === "listen-port") return result(0, `${tunnel.port}\n`);
      if (rest[0] === "transfer")
        return result(0, [...tunnel.peers.keys()].map((key) => `${key}\t100\t200\n`).join(""));
      const peers = [...tunnel.peers].map(([key, peer]) =>
        [key, "(none)", peer.endpoint, peer.allowedIps, "0", "100", "200", peer.keepalive].join("\t"),
      );
      return result(0, `${[[tunnel.key, "public", tunnel.port, "off"].join("\t"), ...peers].join("\n")}\n`);
    }
    if (verb !== "set") throw new Error(`unexpected wg ${verb}`);
    for (let at = 0, key = ""; at < rest.length; ) {
      const word = rest[at++];
      if (word === "peer") {
        key = rest[at++] ?? "";
        if (rest[at] === "remove") {
          at++;
          tunnel.peers.delete(key);
        } else if (!tunnel.peers.has(key))
          tunnel.peers.set(key, { endpoint: "(none)", allowedIps: "(none)", keepalive: "off" });
        continue;
      }
      const peer = tunnel.peers.get(key);
      const value = rest[at++] ?? "";
      if (peer === undefined) throw new Error(`unexpected wg set ${word}`);
      if (word === "endpoint") peer.endpoint = value;
      else if (word === "allowed-ips") peer.allowedIps = value;
      else if (word === "persistent-keepalive") peer.keepalive = value;
      else throw new Error(`unexpected wg set ${word}`);
    }
    return result(0);
  }
}

const text = z.record(z.string(), z.unknown());
const addition = z.object({ group: z.string(), rules: z.array(text.and(z.object({ Name: z.string() }))) });
const settings = z.array(z.object({ name: z.string(), enabled: z.string(), outbound: z.string() }));

/** What a command line of PowerShell says; null for another program's. */
export function scriptOf(
  argv: readonly string[],
): { readonly script: WindowsScript; readonly parameters: Readonly<Record<string, unknown>> } | null {
  const encoded = argv[argv.indexOf("-EncodedCommand") + 1];
  if (argv[0] !== "powershell" || encoded === undefined) return null;
  const whole = Buffer.from(encoded, "base64").toString("utf16le");
  const names = Object.keys(WINDOWS_SCRIPTS) as WindowsScript[];
  const script = names.find((name) => whole.includes(`\ntry {\n${WINDOWS_SCRIPTS[name]}\n} catch`));
  const data = /FromBase64String\('([A-Za-z0-9+/=]*)'\)/.exec(whole)?.[1];
  if (script === undefined || data === undefined) throw new Error(`an unknown script: ${whole}`);
  return { script, parameters: text.parse(JSON.parse(utf8Text(Buffer.from(data, "base64")))) };
}

/** The state folder of a test is another each time. */
function shownCall(argv: readonly string[]): string {
  const asked = scriptOf(argv);
  const shown = asked === null ? argv.join(" ") : `powershell ${asked.script} ${JSON.stringify(asked.parameters)}`;
  return shown.replaceAll(/\S*\/higgs-windows-[A-Za-z0-9]+/g, "STATE");
}

function result(code: number, stdout = "", stderr = ""): ExecResult {
  return { code, stdout, stderr };
}

function json(value: unknown): ExecResult {
  return result(0, `${JSON.stringify(value)}\r\n`);
}

/** A laptop by Wi-Fi, with an idle cable and the switch of Hyper-V. */
export function atHome(): WindowsNetwork {
  const both = (index: number, alias: string, metric: number, mtu: number, connected = "Connected") =>
    (["IPv4", "IPv6"] as const).map((family) => ({
      index,
      alias,
      family,
      metric,
      mtu,
      forwarding: "Disabled",
      connected,
    }));
  return {
    interfaces: [
      ...both(12, "Wi-Fi", 40, 1500),
      ...both(7, "Ethernet", 5, 1500, "Disconnected"),
      ...both(23, "vEthernet (Default Switch)", 5000, 1500),
      ...both(1, "Loopback Pseudo-Interface 1", 75, 4294967295),
    ],
    routes: [
      { index: 12, prefix: "0.0.0.0/0", nextHop: "192.168.7.1", metric: 0 },
      { index: 12, prefix: "::/0", nextHop: "fe80::1", metric: 256 },
      { index: 12, prefix: "192.168.7.0/24", nextHop: "0.0.0.0", metric: 256 },
      { index: 12, prefix: "192.168.7.20/32", nextHop: "0.0.0.0", metric: 256 },
      { index: 12, prefix: "fd66:1::/64", nextHop: "::", metric: 256 },
      { index: 12, prefix: "224.0.0.0/4", nextHop: "0.0.0.0", metric: 256 },
      { index: 12, prefix: "255.255.255.255/32", nextHop: "0.0.0.0", metric: 256 },
      { index: 1, prefix: "127.0.0.0/8", nextHop: "0.0.0.0", metric: 256 },
    ],
    addresses: [
      { index: 12, address: "192.168.7.20", prefixLength: 24, origin: "Dhcp", state: "Preferred" },
      { index: 12, address: "fd66:1::20", prefixLength: 64, origin: "Random", state: "Preferred" },
      { index: 12, address: "fe80::20%12", prefixLength: 64, origin: "Link", state: "Preferred" },
      { index: 1, address: "127.0.0.1", prefixLength: 8, origin: "WellKnown", state: "Preferred" },
    ],
  };
}
