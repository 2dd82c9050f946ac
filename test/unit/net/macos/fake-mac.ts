// A Mac in memory: answers the tools as their manuals and recorded outputs have it, remembers every call, and prints itself.
//
// Sources of what it answers: pfctl(8) and pf(4); `pfctl -s rules` of a fresh macOS 14 (scrub-anchor and anchor "com.apple/*");
// netstat(1) and ifconfig(8) with outputs of macOS 11 to 14 as published; route(8); scutil(8); wireguard-go's README on WG_TUN_NAME_FILE.
import type { Exec, ExecOptions, ExecResult } from "../../../../src/net/exec.ts";
import type { MacWireGuardHost } from "../../../../src/net/wg/host-macos.ts";
import { FakeMachine } from "../wg/fake-machine.ts";

interface Route {
  readonly destination: string;
  readonly gateway: string;
  readonly flags: string;
  readonly netif: string;
}

interface Interface {
  mtu: number;
  isUp: boolean;
  addresses: string[];
}

/** The process that calls is over: nothing that it does later happens. */
export class Killed extends Error {}

type Trouble =
  /** The n-th call is refused, and nothing happens. */
  | { readonly kind: "refused"; readonly at: number }
  /** The n-th call happens, and whoever made it is killed then. */
  | { readonly kind: "killed"; readonly at: number };

const ALTQ = "No ALTQ support in kernel\nALTQ related functions disabled\n";
const MAIN_RULES = 'scrub-anchor "com.apple/*" all fragment reassemble\nanchor "com.apple/*" all\n';
const SOCKET_DIR = "/var/run/wireguard";

export class FakeMac implements Exec {
  /** Each as a person would type it, with its standard input indented below. */
  readonly calls: string[] = [];
  mainRules = MAIN_RULES;
  readonly anchors = new Map<string, readonly string[]>();
  readonly tokens = new Set<string>();
  isPfOn = false;
  readonly store = new Map<string, string>();
  readonly host: MacWireGuardHost;
  trouble: Trouble | null = null;
  readonly routes: Record<"inet" | "inet6", Route[]> = {
    inet: [
      { destination: "default", gateway: "192.168.7.1", flags: "UGScg", netif: "en0" },
      { destination: "127", gateway: "127.0.0.1", flags: "UCS", netif: "lo0" },
      { destination: "192.168.7", gateway: "link#4", flags: "UCS", netif: "en0" },
      { destination: "224.0.0/4", gateway: "link#4", flags: "UmCS", netif: "en0" },
    ],
    inet6: [
      { destination: "default", gateway: "fe80::1%en0", flags: "UGcg", netif: "en0" },
      { destination: "fe80::%en0/64", gateway: "link#4", flags: "UCI", netif: "en0" },
    ],
  };
  readonly #interfaces = new Map<string, Interface>([
    ["lo0", { mtu: 16384, isUp: true, addresses: ["inet 127.0.0.1 netmask 0xff000000", "inet6 ::1 prefixlen 128"] }],
    [
      "en0",
      {
        mtu: 1500,
        isUp: true,
        addresses: [
          "inet6 fe80::1cb1:8cff:fe5d:11f%en0 prefixlen 64 secured scopeid 0x4",
          "inet 192.168.7.20 netmask 0xffffff00 broadcast 192.168.7.255",
          "inet6 2001:db8:7::20 prefixlen 64 autoconf secured",
        ],
      },
    ],
    [
      "bridge100",
      { mtu: 1500, isUp: true, addresses: ["inet 192.168.64.1 netmask 0xffffff00 broadcast 192.168.64.255"] },
    ],
  ]);
  readonly #wg = new FakeMachine();
  #name: string | null = null;
  readonly #sockets = new Set<string>();
  #count = 0;
  #isDead = false;
  #nextToken = 9_450_349_501;

  constructor() {
    this.host = {
      readName: () => Promise.resolve(this.#name),
      removeName: () => this.#done(`rm ${SOCKET_DIR}/higgs0.name`, () => void (this.#name = null)),
      launch: (path) => this.#launch(path),
      socketState: (tunnel) => Promise.resolve(this.#sockets.has(tunnel) ? "answers" : "absent"),
      removeSocket: (tunnel) => this.#done(`rm ${SOCKET_DIR}/${tunnel}.sock`, () => this.endTunnel()),
      askSocket: () => Promise.resolve(""),
      isPortFree: () => Promise.resolve(true),
      wireguardGoOnPath: () => "/opt/homebrew/bin/wireguard-go",
    };
  }

  /** Another process, for which nothing is in the way. */
  startAnew(): void {
    this.#isDead = false;
    this.trouble = null;
    this.calls.length = 0;
    this.#count = 0;
  }

  get count(): number {
    return this.#count;
  }

  /** kill -9 of the wireguard-go: its interface goes, and its routes with it. */
  endTunnel(): void {
    const name = [...this.#sockets][0];
    if (name === undefined) return;
    this.#sockets.delete(name);
    this.#interfaces.delete(name);
    this.#wg.links.delete(name);
    for (const family of ["inet", "inet6"] as const) {
      this.routes[family] = this.routes[family].filter((route) => route.netif !== name);
    }
  }

  /** The whole state, as one text. */
  printed(): string {
    const anchors = [...this.anchors].map(([name, rules]) => `anchor ${name}: ${rules.length} rules`);
    const routes = [...this.routes.inet, ...this.routes.inet6].map(routeLine);
    return [
      `pf ${this.isPfOn ? "on" : "off"}`,
      ...[...this.tokens].map((token) => `reference ${token}`),
      ...anchors,
      ...routes,
      ...[...this.store].map(([key, value]) => `${key}: ${value}`),
      ...this.#interfaces.keys(),
      this.#name ?? "no tunnel",
    ].join("\n");
  }

  async run(argv: readonly [string, ...string[]], options: ExecOptions = {}): Promise<ExecResult> {
    return await this.#step(textOf(argv, options.stdin), () => this.#answer(argv, options.stdin ?? ""));
  }

  async #done(call: string, effect: () => void): Promise<void> {
    await this.#step(call, () => {
      effect();
      return success();
    });
  }

  async #launch(path: string): Promise<{ code: number; said: string }> {
    const { code, stderr } = await this.#step(`WG_TUN_NAME_FILE=${SOCKET_DIR}/higgs0.name ${path} utun`, () => {
      this.#name = "utun7";
      this.#sockets.add("utun7");
      this.#interfaces.set("utun7", { mtu: 1420, isUp: false, addresses: [] });
      this.#wg.addLink("utun7", "tun");
      this.#wg.sockets.set("utun7", "answers");
      return success();
    });
    return { code, said: stderr };
  }

  async #step(call: string, effect: () => ExecResult | Promise<ExecResult>): Promise<ExecResult> {
    if (this.#isDead) throw new Killed();
    this.#count++;
    this.calls.push(call);
    const isNow = this.trouble?.at === this.#count;
    if (isNow && this.trouble?.kind === "refused") return failure("Broken on purpose");
    const result = await effect();
    if (isNow) {
      this.#isDead = true;
      throw new Killed();
    }
    return result;
  }

  #answer(argv: readonly [string, ...string[]], stdin: string): ExecResult | Promise<ExecResult> {
    const [tool, ...args] = argv;
    switch (tool) {
      case "pfctl":
        return this.#pfctl(args, stdin);
      case "route":
        return this.#route(args);
      case "ifconfig":
        return this.#ifconfig(args);
      case "netstat":
        return this.#netstat(args);
      case "scutil":
        return this.#scutil(stdin);
      case "wg":
        return this.#wg.run(argv, { stdin });
      case "/opt/homebrew/bin/wireguard-go":
        return success("wireguard-go v0.0.20230223\n");
      default:
        throw new Error(`the fake Mac does not know: ${argv.join(" ")}`);
    }
  }

  #pfctl(args: readonly string[], stdin: string): ExecResult {
    const [, anchor = ""] = args[0] === "-a" ? args : [];
    const command = (args[0] === "-a" ? args.slice(2) : args).join(" ");
    if (anchor !== "" && command === "-s rules") {
      const rules = this.anchors.get(anchor);
      if (rules === undefined) return { code: 0, stdout: "", stderr: `${ALTQ}pfctl: DIOCGETRULES: Invalid argument\n` };
      return { code: 0, stdout: rules.map((rule) => `${rule}\n`).join(""), stderr: ALTQ };
    }
    if (anchor !== "" && command === "-f -") {
      // It prints rules in other words than it was given.
      const shown = stdin
        .trim()
        .split("\n")
        .map((rule) => rule.replace(/ (port|user) (\d+)/g, " $1 = $2"));
      this.anchors.set(anchor, shown);
      return { code: 0, stdout: "", stderr: ALTQ };
    }
    if (anchor !== "" && command === "-F rules") {
      this.anchors.delete(anchor);
      return { code: 0, stdout: "", stderr: `${ALTQ}rules cleared\n` };
    }
    if (anchor !== "") throw new Error(`the fake Mac does not know: pfctl ${args.join(" ")}`);
    if (command === "-s rules") return { code: 0, stdout: this.mainRules, stderr: ALTQ };
    if (command === "-s info")
      return success(`Status: ${this.isPfOn ? "Enabled for 0 days 00:01:02" : "Disabled"}   Debug: Urgent\n`);
    if (command === "-s References")
      return success(`TOKENS:\n${[...this.tokens].map((one) => `71 pfctl ${one}\n`).join("")}`);
    if (command === "-F states") return { code: 0, stdout: "", stderr: `${ALTQ}states cleared\n` };
    if (command === "-E") {
      const token = String(this.#nextToken++);
      this.tokens.add(token);
      this.isPfOn = true;
      return { code: 0, stdout: "", stderr: `${ALTQ}pf enabled\nToken : ${token}\n` };
    }
    if (args[0] === "-X") {
      if (!this.tokens.delete(args[1] ?? "")) return failure("pfctl: pf not enabled or invalid token");
      if (this.tokens.size === 0) this.isPfOn = false;
      return { code: 0, stdout: "", stderr: `${ALTQ}disable request successful\n` };
    }
    throw new Error(`the fake Mac does not know: pfctl ${args.join(" ")}`);
  }

  #route(args: readonly string[]): ExecResult {
    const [numeric, verb, family, kind, destination = ""] = args;
    if (numeric !== "-n" || (family !== "-inet" && family !== "-inet6")) throw new Error(`route ${args.join(" ")}`);
    const table = family === "-inet" ? "inet" : "inet6";
    const shown = shownDestination(destination, table);
    const there = this.routes[table].find((route) => route.destination === shown);
    if (verb === "delete") {
      if (there === undefined)
        return failure(`route: writing to routing socket: not in table\ndelete ${shown}: not in table`);
      this.routes[table] = this.routes[table].filter((route) => route !== there);
      return success(`delete ${kind} ${destination}\n`);
    }
    if (there !== undefined) return failure(`route: writing to routing socket: File exists\nadd ${shown}: File exists`);
    const words = args.slice(5);
    const isReject = words.includes("-reject");
    const [way = "", to = ""] = words;
    const marks = `${words.includes("-proto1") ? "1" : ""}${words.includes("-proto2") ? "2" : ""}`;
    const host = kind === "-host" ? "H" : "";
    const route: Route = isReject
      ? { destination: shown, gateway: way, flags: `UG${host}SR${marks}`, netif: "lo0" }
      : way === "-gateway"
        ? { destination: shown, gateway: to, flags: `UG${host}S${marks}`, netif: "en0" }
        : { destination: shown, gateway: to, flags: `U${host}Sc${marks}`, netif: to };
    this.routes[table].push(route);
    return success(`add ${kind} ${destination}\n`);
  }

  #ifconfig(args: readonly string[]): ExecResult {
    const [name, ...rest] = args;
    if (name === undefined) return success([...this.#interfaces.keys()].map((one) => this.#shown(one)).join(""));
    const found = this.#interfaces.get(name);
    if (found === undefined) return failure(`ifconfig: interface ${name} does not exist`);
    if (rest.length === 0) return success(this.#shown(name));
    const [word, value = ""] = rest;
    const [address = ""] = value.split("/");
    if (word === "mtu") found.mtu = Number(value);
    else if (word === "up") found.isUp = true;
    else if (rest.at(-1) === "-alias")
      found.addresses = found.addresses.filter((line) => !line.includes(` ${address} `));
    else if (word === "inet") found.addresses.push(`inet ${address} --> ${address} netmask 0xffffffff`);
    else if (word === "inet6") found.addresses.push(`inet6 ${address} prefixlen 128`);
    else throw new Error(`the fake Mac does not know: ifconfig ${args.join(" ")}`);
    return success();
  }

  #shown(name: string): string {
    const { mtu, isUp, addresses } = this.#interfaces.get(name) ?? { mtu: 0, isUp: false, addresses: [] };
    const flags = name.startsWith("utun")
      ? "POINTOPOINT,RUNNING,MULTICAST"
      : "BROADCAST,SMART,RUNNING,SIMPLEX,MULTICAST";
    const head = `${name}: flags=8863<${isUp ? "UP," : ""}${flags}> mtu ${mtu}\n`;
    return `${head}${addresses.map((line) => `\t${line} \n`).join("")}\tnd6 options=201<PERFORMNUD,DAD>\n`;
  }

  #netstat(args: readonly string[]): ExecResult {
    if (args[0] !== "-rn") throw new Error(`the fake Mac does not know: netstat ${args.join(" ")}`);
    return success(this.netstat(args.at(-1) === "inet6" ? "inet6" : "inet"));
  }

  /** As `netstat -rn -f` prints it. */
  netstat(family: "inet" | "inet6"): string {
    const head = "Destination        Gateway            Flags               Netif Expire";
    const lines = this.routes[family].map((one) => `${routeLine(one)}\n`);
    return `Routing tables\n\nInternet:\n${head}\n${lines.join("")}`;
  }

  #scutil(stdin: string): ExecResult {
    let dictionary: string[] = [];
    let said = "";
    for (const line of stdin.trim().split("\n")) {
      const [verb, ...words] = line.split(" ");
      const key = words[0] ?? "";
      if (verb === "d.init") dictionary = [];
      else if (verb === "d.add") {
        const items = words.slice(2).map((word, at) => `    ${at} : ${word === '""' ? "" : word}\n`);
        dictionary.push(`  ${key} : <array> {\n${items.join("")}  }\n`);
      } else if (verb === "set") this.store.set(key, `<dictionary> {\n${dictionary.join("")}}`);
      else if (verb === "remove") {
        if (!this.store.delete(key)) said += "  No such key\n";
      } else if (verb === "show") said += `${this.store.get(key) ?? "  No such key"}\n`;
      else throw new Error(`the fake Mac does not know: scutil ${line}`);
    }
    return success(said);
  }
}

function textOf(argv: readonly string[], stdin: string | undefined): string {
  const command = argv.join(" ");
  if (stdin === undefined) return command;
  return `${command}\n${stdin.trimEnd().replaceAll(/^/gm, "    | ")}`;
}

function routeLine({ destination, gateway, flags, netif }: Route): string {
  return `${destination.padEnd(18)} ${gateway.padEnd(18)} ${flags.padEnd(19)} ${netif}`;
}

/** As netstat writes it: without zeros at the end of a prefix of IPv4, but with as many numbers as its old class has. */
function shownDestination(destination: string, table: "inet" | "inet6"): string {
  const [address = "", length] = destination.split("/");
  if (table === "inet6" || length === undefined) return destination;
  const numbers = address.split(".");
  const least = Number(numbers[0]) < 128 ? 1 : Number(numbers[0]) < 192 ? 2 : 3;
  while (numbers.length > least && numbers.at(-1) === "0") numbers.pop();
  return `${numbers.join(".")}/${length}`;
}

function success(stdout = ""): ExecResult {
  return { code: 0, stdout, stderr: "" };
}

function failure(stderr: string): ExecResult {
  return { code: 1, stdout: "", stderr: `${stderr}\n` };
}
