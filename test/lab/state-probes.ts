// The table of docs/security-states.md as data, and for each of its classes the packets that try it.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Packet } from "../../src/lab/pcap.ts";
import { ROOT_DIR } from "./bundle.ts";

export interface Order {
  readonly id: string;
  readonly kind: "tcp" | "udp" | "icmp";
  readonly to: string;
  /** Of an echo request: its length in bytes, by which it is told from others. */
  readonly port: number;
  readonly fromPort?: number;
  readonly device?: string;
  readonly mark?: number;
  /** Hexadecimal. */
  readonly payload?: string;
  /** A whole frame in hexadecimal, past the IP layer. */
  readonly frame?: string;
}

export interface Probe {
  readonly className: string;
  readonly order: Order;
  /** Who sends it. */
  readonly as: "root" | "higgs" | "another user" | "container";
  /** True for one of its packets, also after the home's NAT. */
  matches(packet: Packet): boolean;
}

export type Verdict = "open" | "tunnel" | "closed";

export interface Row {
  readonly situation: string;
  readonly cells: ReadonlyMap<string, Verdict>;
}

const VERDICTS: readonly string[] = ["open", "tunnel", "closed"] satisfies readonly Verdict[];

/** The first table of the document. Throws where it is not as expected. */
export function securityStates(): { readonly classes: readonly string[]; readonly rows: readonly Row[] } {
  const text = readFileSync(join(ROOT_DIR, "docs/security-states.md"), "utf8");
  const lines = text.split("\n");
  const first = lines.findIndex((line) => line.startsWith("| situation | internet"));
  const end = lines.findIndex((line, i) => i > first && !line.startsWith("|"));
  const table = lines.slice(first, end).map((line) =>
    line
      .split("|")
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
  const [head = [], , ...body] = table;
  const classes = head.slice(1);
  const rows = body.map(([situation = "", ...verdicts]) => {
    const cells = new Map<string, Verdict>();
    classes.forEach((name, i) => {
      const verdict = verdicts[i] ?? "";
      if (!VERDICTS.includes(verdict)) throw new Error(`"${situation}" × "${name}" says "${verdict}".`);
      cells.set(name, verdict as Verdict);
    });
    return { situation, cells };
  });
  if (first < 0 || rows.length === 0) throw new Error("docs/security-states.md has no table of situations.");
  return { classes, rows };
}

const WEB = { 4: "203.0.113.80", 6: "2001:db8:80::80" } as const;
const RESOLVER = { 4: "203.0.113.53", 6: "2001:db8:53::53" } as const;
/** The café's router; IPv6 as many homes have it beside what the provider gives. */
const ROUTER = { 4: "192.168.7.1", 6: "fd66::1" } as const;
const SERVER = { 4: "203.0.113.10", 6: "2001:db8:10::10" } as const;
const FAMILIES = [4, 6] as const;
const OUR_MARK = 0x68000;
/** "web.lab.example" A, with recursion desired (RFC 1035, section 4.1). */
const QUERY = "00010100000100000000000003776562036c6162076578616d706c650000010001";
/** A handshake initiation has 148 bytes; its form is in the first four. */
const WIREGUARD_FORM = `01000000${"5a".repeat(144)}`;
const BROADCAST = "255.255.255.255";

type Ends = { readonly 4: string; readonly 6: string };

/** All probes of one round. Ports are `run`'s own, so that nothing of an earlier round is taken for this one's. */
export function probesOf(run: number): readonly Probe[] {
  const probes: Probe[] = [];
  let next = 0;
  const number = (): number => next++;
  const add = (
    className: string,
    order: Omit<Order, "id">,
    more: { readonly as?: Probe["as"]; readonly bySource?: boolean } = {},
  ): void => {
    const id = `${className}: ${order.kind} to ${order.to}:${order.port}${order.payload === QUERY ? " (a name)" : ""}`;
    const matches = more.bySource === true ? sourceMatch(order) : targetMatch(order);
    probes.push({ className, order: { ...order, id }, as: more.as ?? "root", matches });
  };
  /** A port or a length that no other probe of any run has. */
  const own = (): number => 20_000 + run * 100 + number();
  const everything = (className: string, ends: Ends, more: Partial<Order>, as: Probe["as"] = "root"): void => {
    for (const family of FAMILIES) {
      const to = ends[family];
      add(className, { kind: "udp", to, port: own(), ...more }, { as });
      add(className, { kind: "tcp", to, port: own(), ...more }, { as });
      add(className, { kind: "icmp", to, port: 64 + ((run * 37 + number()) % 1100), ...more }, { as });
    }
  };
  const names = (className: string, ends: Ends): void => {
    for (const family of FAMILIES) {
      const to = ends[family];
      add(className, { kind: "udp", to, port: 53, fromPort: own(), payload: QUERY }, { bySource: true });
      add(className, { kind: "tcp", to, port: 53, fromPort: own() }, { bySource: true });
    }
  };
  const namesByTls = (className: string, ends: Ends): void => {
    for (const family of FAMILIES) {
      add(className, { kind: "tcp", to: ends[family], port: 853, fromPort: own() }, { bySource: true });
      add(className, { kind: "udp", to: ends[family], port: 853, fromPort: own() }, { bySource: true });
    }
  };
  everything("internet", WEB, {});
  everything("LAN", ROUTER, {});
  names("internet DNS", RESOLVER);
  namesByTls("internet DoT", RESOLVER);
  names("LAN DNS", ROUTER);
  namesByTls("LAN DoT", ROUTER);
  everything("bound to eth0", WEB, { device: "eth0" });
  everything("with our mark", WEB, { mark: OUR_MARK });
  for (const family of FAMILIES) {
    const to = SERVER[family];
    add("carrier", { kind: "tcp", to, port: 443, fromPort: own() }, { bySource: true, as: "higgs" });
    add("server, others", { kind: "tcp", to, port: 443, fromPort: own() }, { bySource: true, as: "another user" });
    add("server, others", { kind: "tcp", to, port: own() });
    add("server, others", { kind: "udp", to, port: own() });
    add("WireGuard", { kind: "udp", to: WEB[family], port: own(), mark: OUR_MARK, payload: WIREGUARD_FORM });
  }
  add(
    "DHCP",
    { kind: "udp", to: BROADCAST, port: 67, fromPort: 68, device: "eth0", payload: "0101" },
    { bySource: true },
  );
  // A lease is renewed with its own server; the form alone, to an address on the internet, is no way out.
  const renewal = { kind: "udp", port: 67, fromPort: 68, payload: "0101" } as const;
  add("DHCP", { ...renewal, to: ROUTER[4] }, { bySource: true });
  add("bound to eth0", { ...renewal, to: WEB[4], device: "eth0" }, { bySource: true });
  everything("containers", WEB, {}, "container");
  return probes;
}

let attempts = 0;

/** One of each protocol to an address, as this order has it. */
export function probesTo(to: string, more: Partial<Order> = {}): readonly Probe[] {
  return (["udp", "tcp", "icmp"] as const).map((kind) => {
    const number = attempts++;
    const order = { kind, to, port: kind === "icmp" ? 64 + (number % 1100) : 40_000 + number, ...more };
    return {
      className: "attack",
      order: { ...order, id: `${kind} to ${to}${more.device === undefined ? "" : ` by ${more.device}`}` },
      as: "root",
      matches: targetMatch(order),
    };
  });
}

function targetMatch({ kind, to, port }: Omit<Order, "id">): Probe["matches"] {
  if (kind !== "icmp") {
    const end = ` > ${to.includes(":") ? `[${to}]` : to}:${port} length`;
    return ({ text }) => text.startsWith(kind) && text.includes(end);
  }
  const [start, bytes] = to.includes(":") ? ["icmp6 ", 40 + port] : ["icmp ", 20 + port];
  return ({ text, ip }) => text.startsWith(start) && text.includes(` > ${to} type`) && ip.length === bytes;
}

/** The server and the resolvers are spoken with by others too. */
function sourceMatch({ kind, to, port, fromPort }: Omit<Order, "id">): Probe["matches"] {
  const end = `:${fromPort ?? 0} > ${to.includes(":") ? `[${to}]` : to}:${port} length`;
  return ({ text }) => text.startsWith(kind) && text.includes(end);
}
