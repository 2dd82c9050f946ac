// A machine with links and WireGuard devices in memory: understands exactly the commands that a device needs, and prints itself.
import { type Exec, type ExecResult, toolMissing } from "../../../../src/net/exec.ts";
import { type WireGuardKey, type WireGuardSecret, wireGuardKeyOf } from "../../../../src/proto/keys.ts";
import type { WireGuardHost } from "../../../../src/net/wg/host.ts";

interface Peer {
  endpoint: string;
  allowedIps: string[];
  handshakeS: number;
  keepalive: string;
  /** Counts how often it was made, so that a test sees a peer that was removed and added anew. */
  birth: number;
}

interface Link {
  kind: string;
  mtu: number;
  isUp: boolean;
  genmode: string;
  addresses: string[];
  privateKey: string;
  listenPort: number;
  mark: number;
  peers: Map<string, Peer>;
}

export interface FakeMachineOptions {
  readonly hasKernelWireGuard?: boolean;
  readonly wireguardGoOnPath?: string | null;
  readonly hasIpv6?: boolean;
  /** UDP ports of other programs. */
  readonly busyPorts?: readonly number[];
  readonly tools?: readonly string[];
  /** Makes a command fail once it is reached, by its text as argv or as a line of a batch. */
  readonly failAt?: RegExp;
}

export class FakeMachine implements Exec {
  readonly links = new Map<string, Link>();
  readonly sockets = new Map<string, "stale" | "answers">();
  readonly processes = new Map<string, string>();
  /** True: a wireguard-go does not notice that its interface goes. */
  hangs = false;
  /** What was asked for, reading and writing; standard input is not in it. */
  readonly commands: string[] = [];
  readonly host: WireGuardHost;
  readonly #options: FakeMachineOptions;
  #births = 0;

  constructor(options: FakeMachineOptions = {}) {
    this.#options = options;
    this.host = {
      launch: async (argv) => this.#launch(argv),
      socketState: async (name) => this.sockets.get(name) ?? "absent",
      removeSocket: async (name) => void this.sockets.delete(name),
      processOf: (name) => {
        const path = this.processes.get(name);
        return path === undefined ? null : { pid: 4711, path };
      },
      killProcess: () => {
        for (const name of this.processes.keys()) this.killServer(name);
      },
      isPortFree: async (port) => options.busyPorts?.includes(port) !== true,
      isPortBound: (port) => [...this.links.values()].some((link) => link.isUp && link.listenPort === port),
      hasIpv6: () => options.hasIpv6 !== false,
      tunProblem: async () => null,
      wireguardGoOnPath: () => options.wireguardGoOnPath ?? null,
      askSocket: () => Promise.resolve(""),
      netDev: () => "",
    };
  }

  /** The commands that change something, since the last call. */
  takeChanges(): readonly string[] {
    const changes = this.commands.filter((command) => !/ show |--version/.test(command));
    this.commands.length = 0;
    return changes;
  }

  /** The whole state, as one text. */
  printed(): string {
    const lines: string[] = [];
    for (const [name, link] of this.links) {
      lines.push(`${name} ${link.kind} mtu ${link.mtu} ${link.isUp ? "up" : "down"} genmode ${link.genmode}`);
      lines.push(...link.addresses.map((address) => `  address ${address}`));
      if (link.kind === "dummy") continue;
      const key = link.privateKey === "(none)" ? "none" : wireGuardKeyOf(link.privateKey as WireGuardSecret);
      lines.push(`  key ${key} port ${link.listenPort} mark 0x${link.mark.toString(16)}`);
      for (const [publicKey, peer] of link.peers) {
        lines.push(
          `  peer ${publicKey} at ${peer.endpoint} allowed ${peer.allowedIps.join(",") || "(none)"} keepalive ${peer.keepalive}`,
        );
      }
    }
    for (const [name, path] of this.processes) lines.push(`process ${path} ${name}`);
    for (const [name, state] of this.sockets) lines.push(`socket ${name} ${state}`);
    return `${lines.join("\n")}\n`;
  }

  addLink(name: string, kind: string): Link {
    const link = { kind, mtu: 1420, isUp: false, genmode: "eui64", addresses: [], privateKey: "(none)" };
    const whole: Link = { ...link, listenPort: 33333, mark: 0, peers: new Map() };
    this.links.set(name, whole);
    return whole;
  }

  peer(name: string, publicKey: WireGuardKey): Peer {
    const peer = this.links.get(name)?.peers.get(publicKey);
    if (peer === undefined) throw new Error(`no peer ${publicKey} on ${name}`);
    return peer;
  }

  /** kill -9 of the process that serves an interface: the interface goes, the socket stays. */
  killServer(name: string): void {
    this.processes.delete(name);
    this.links.delete(name);
    this.sockets.set(name, "stale");
  }

  async run(argv: readonly [string, ...string[]], options: { readonly stdin?: string } = {}): Promise<ExecResult> {
    const command = argv.join(" ");
    this.commands.push(
      command === "ip -batch -" ? `batch: ${(options.stdin ?? "").trim().replaceAll("\n", "; ")}` : command,
    );
    if (this.#options.tools?.includes(argv[0]) === false) throw toolMissing(argv[0]);
    if (this.#options.failAt?.test(command) === true) return failure("RTNETLINK answers: Broken on purpose");
    const shown = /^ip -j -d addr show dev (\S+)$/.exec(command)?.[1];
    if (shown !== undefined) return this.#showLink(shown);
    const added = /^ip link add dev (\S+) type wireguard$/.exec(command)?.[1];
    if (added !== undefined) {
      if (this.#options.hasKernelWireGuard !== true) return failure("Error: Unknown device type.");
      this.addLink(added, "wireguard");
      return success("");
    }
    if (command === "ip -batch -") return this.#batch((options.stdin ?? "").trim().split("\n"));
    const dumped = /^wg show (\S+) (dump|listen-port)$/.exec(command);
    if (dumped !== null) return this.#showDevice(dumped[1] ?? "", dumped[2] === "dump");
    if (argv[0] === "wg" && argv[1] === "set") return this.#set(argv[2] ?? "", argv.slice(3), options.stdin);
    if (argv[1] === "--version") return success("wireguard-go v0.0.20220316\n\nUserspace WireGuard daemon.\n");
    throw new Error(`the fake machine does not know: ${command}`);
  }

  #launch(argv: readonly string[]): { code: number; said: string } {
    const [path = "", name = ""] = argv;
    this.commands.push(`launch: ${argv.join(" ")}`);
    this.addLink(name, "tun");
    this.processes.set(name, path);
    this.sockets.set(name, "answers");
    return { code: 0, said: "" };
  }

  #showLink(name: string): ExecResult {
    const link = this.links.get(name);
    if (link === undefined) return failure(`Device "${name}" does not exist.`);
    const addr_info = link.addresses.map((cidr) => {
      const [local, prefixlen] = cidr.split("/");
      return { family: cidr.includes(":") ? "inet6" : "inet", local, prefixlen: Number(prefixlen), scope: "global" };
    });
    const flags = link.isUp ? ["POINTOPOINT", "NOARP", "UP", "LOWER_UP"] : ["POINTOPOINT", "NOARP"];
    return success(
      JSON.stringify([{ ifname: name, mtu: link.mtu, flags, linkinfo: { info_kind: link.kind }, addr_info }]),
    );
  }

  #batch(lines: readonly string[]): ExecResult {
    for (const line of lines) {
      if (this.#options.failAt?.test(line) === true) return failure("RTNETLINK answers: Broken on purpose");
      this.#line(line);
    }
    return success("");
  }

  #line(line: string): void {
    const words = line.split(" ");
    const name = words[words.indexOf("dev") + 1] ?? "";
    const link = this.links.get(name);
    if (link === undefined) throw new Error(`the fake machine has no ${name}: ${line}`);
    const address = /^addr (add|del) (\S+) dev \S+( nodad)?$/.exec(line);
    if (address !== null) {
      link.addresses = link.addresses.filter((one) => one !== address[2]);
      if (address[1] === "add") link.addresses.push(address[2] ?? "");
    } else if (/^link set dev \S+ mtu \d+$/.test(line)) link.mtu = Number(words.at(-1));
    else if (/^link set dev \S+ addrgenmode none$/.test(line)) link.genmode = "none";
    else if (/^link set dev \S+ up$/.test(line)) link.isUp = true;
    else if (/^link del dev \S+$/.test(line)) {
      this.links.delete(name);
      if (this.hangs) return;
      this.processes.delete(name);
      this.sockets.delete(name);
    } else throw new Error(`the fake machine does not know the line: ${line}`);
  }

  #showDevice(name: string, isDump: boolean): ExecResult {
    const link = this.links.get(name);
    const isServed = link?.kind === "wireguard" || (link?.kind === "tun" && this.sockets.get(name) === "answers");
    if (link === undefined || !isServed) return failure("Unable to access interface: No such device");
    if (!isDump) return success(`${link.listenPort}\n`);
    const publicKey = link.privateKey === "(none)" ? "(none)" : wireGuardKeyOf(link.privateKey as WireGuardSecret);
    const mark = link.mark === 0 ? "off" : `0x${link.mark.toString(16)}`;
    const lines = [[link.privateKey, publicKey, link.listenPort, mark].join("\t")];
    for (const [key, peer] of link.peers) {
      const allowed = peer.allowedIps.join(",") || "(none)";
      lines.push([key, "(none)", peer.endpoint, allowed, peer.handshakeS, 0, 0, peer.keepalive].join("\t"));
    }
    return success(`${lines.join("\n")}\n`);
  }

  /** Follows wg(8): the words after `peer KEY` are of that peer, until the next one. */
  #set(name: string, args: readonly string[], stdin: string | undefined): ExecResult {
    const link = this.links.get(name);
    if (link === undefined) return failure("Unable to modify interface: No such device");
    let key = "";
    for (let at = 0; at < args.length; at++) {
      const word = args[at] ?? "";
      const value = (): string => args[++at] ?? "";
      const peer = link.peers.get(key);
      if (word === "private-key" && STDIN.has(value())) link.privateKey = (stdin ?? "").trim();
      else if (word === "listen-port") link.listenPort = Number(value());
      else if (word === "fwmark") link.mark = Number(value());
      else if (word === "peer") {
        key = value();
        const isRemoval = args[at + 1] === "remove";
        if (!link.peers.has(key) && !isRemoval) {
          this.#births++;
          const fresh = { endpoint: "(none)", allowedIps: [], handshakeS: 0, keepalive: "off", birth: this.#births };
          link.peers.set(key, fresh);
        }
      } else if (word === "remove") link.peers.delete(key);
      else if (word === "endpoint" && peer !== undefined) peer.endpoint = value();
      else if (word === "persistent-keepalive" && peer !== undefined) peer.keepalive = offForZero(value());
      else if (word === "allowed-ips" && peer !== undefined) {
        peer.allowedIps = value()
          .split(",")
          .filter((one) => one !== "");
        // A prefix belongs to one peer: whoever had it before loses it.
        for (const [other, its] of link.peers) {
          if (other !== key) its.allowedIps = its.allowedIps.filter((one) => !peer.allowedIps.includes(one));
        }
      } else throw new Error(`the fake machine does not know "${word}" in: wg set ${args.join(" ")}`);
    }
    return success("");
  }
}

/** What names standard input on Linux, and on macOS. */
const STDIN: ReadonlySet<string> = new Set(["/proc/self/fd/0", "/dev/stdin"]);

function offForZero(text: string): string {
  return text === "0" ? "off" : text;
}

function success(stdout: string): ExecResult {
  return { code: 0, stdout, stderr: "" };
}

function failure(stderr: string): ExecResult {
  return { code: 1, stdout: "", stderr: `${stderr}\n` };
}
