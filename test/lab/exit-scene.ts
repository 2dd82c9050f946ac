// The scene for the probes of an exit: a home with neighbours that all answer, two clients, and every place that a client must not reach.
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import type { LabProcess } from "../../src/lab/process.ts";
import { cafeHost, smallInternet } from "../../src/lab/small-internet.ts";
import type { ExitMechanism } from "./exit-mechanism.ts";
import { until } from "./harness.ts";
import { ask, type Probe, serve, tcp, udp } from "./net-hosts.ts";
import {
  clientStatus,
  connectClient,
  DIRECT_FLAGS,
  DIRECT_FORWARD,
  DNS_FLAGS,
  goDirect,
  invite,
  nodeStatus,
  RELAYED_FLAGS,
  startNetworkLab,
  startNode,
  startServer,
} from "./network.ts";

export const WEB4 = "203.0.113.80";
export const WEB6 = "2001:db8:80::80";
/** What the web sees of the home, and of the node. */
export const HOME4 = "203.0.113.7";
export const NODE6 = "2001:db8:7:1::10";
export const NODE_FLAGS: readonly string[] = [...DIRECT_FLAGS, ...DNS_FLAGS];
const METADATA = "169.254.169.254";
const SSH = 22;
const MAIL = 25;
const HTTP = 80;
/** Where web, laptop and tablet answer. */
export const PORT = 8080;

export type Probes = Readonly<Record<string, Probe>>;

export interface Addresses {
  readonly node4: string;
  readonly node6: string;
  readonly laptop4: string;
  readonly laptop6: string;
  readonly tablet4: string;
  readonly tablet6: string;
  /** The network's range. */
  readonly range4: string;
}

export interface Scene {
  readonly lab: Lab;
  /** The home PC's. */
  readonly mechanism: ExitMechanism;
  readonly server: LabProcess;
  readonly node: LabProcess;
  readonly addresses: Addresses;
}

export const INTERNET: Probes = {
  "internet, tcp": tcp(WEB4, PORT),
  "internet, udp": udp(WEB4, PORT),
  "internet, tcp 6": tcp(WEB6, PORT),
  "internet, udp 6": udp(WEB6, PORT),
};

/** Out of bounds for a client, each with something that answers there. */
export function forbidden(at: Addresses): Probes {
  return {
    "a host of the LAN": tcp("192.168.1.20", SSH),
    "a host of the LAN, udp": udp("192.168.1.20", SSH),
    "an IPv6 neighbour": tcp("2001:db8:7:1::20", SSH),
    "an IPv6 neighbour, udp": udp("2001:db8:7:1::20", SSH),
    "the node by its tunnel address": tcp(at.node4, SSH),
    "the node by its tunnel address, udp": udp(at.node4, SSH),
    "the node by its tunnel address, 6": tcp(at.node6, SSH),
    "the node by its LAN address": tcp("192.168.1.10", SSH),
    "the node by its public address, 6": tcp(NODE6, SSH),
    "the node by a port that the router forwards": tcp(HOME4, SSH),
    "the router by its LAN address": tcp("192.168.1.1", HTTP),
    "the router by its public address": tcp(HOME4, HTTP),
    "the router by its LAN address, 6": tcp("2001:db8:7:1::1", HTTP),
    "the router by its public address, 6": tcp("2001:db8:7::7", HTTP),
    metadata: tcp(METADATA, HTTP),
    mail: tcp(WEB4, MAIL),
    "mail, 6": tcp(WEB6, MAIL),
    "another client": tcp(at.tablet4, PORT),
    "another client, udp": udp(at.tablet4, PORT),
    "another client, 6": tcp(at.tablet6, PORT),
  };
}

/** From the home's LAN and from the internet into the tunnel, which nobody may. */
export function inbound(at: Addresses): Probes {
  return { client: tcp(at.laptop4, PORT), "client, udp": udp(at.laptop4, PORT), "client, 6": tcp(at.laptop6, PORT) };
}

/** Server, node, laptop and tablet, connected; the laptop's tunnel leads straight to the home. */
export async function startScene(
  mechanism: ExitMechanism,
  prepare: (homePc: LabHost) => Promise<void> = async () => undefined,
): Promise<Scene> {
  const forwardSsh = { protocol: "tcp", port: SSH, to: "192.168.1.10", toPort: SSH } as const;
  const lab = await startNetworkLab(
    smallInternet({
      homeRouter: { acceptInput: true, hairpin: true, forwards: [DIRECT_FORWARD, forwardSsh] },
      extraHosts: [cafeHost("tablet", 3)],
    }),
  );
  try {
    const server = await startServer(lab);
    await mechanism.prepare(lab.host("home-pc"));
    await prepare(lab.host("home-pc"));
    const node = await startNode(lab.host("home-pc"), { join: await invite(lab, "node"), flags: NODE_FLAGS });
    await Promise.all([
      connectClient(lab, "laptop", ...RELAYED_FLAGS),
      connectClient(lab, "tablet", ...RELAYED_FLAGS),
      serveAll(lab),
    ]);
    const [home, laptop, tablet] = await Promise.all([
      nodeStatus(lab.host("home-pc")),
      clientStatus(lab.host("laptop")),
      clientStatus(lab.host("tablet")),
    ]);
    const addresses: Addresses = {
      node4: home.tunnel.ipv4,
      node6: home.tunnel.ipv6,
      laptop4: laptop.tunnel.ipv4,
      laptop6: laptop.tunnel.ipv6,
      tablet4: tablet.tunnel.ipv4,
      tablet6: tablet.tunnel.ipv6,
      range4: home.tunnel.ipv4.replace(/\.\d+\.\d+$/, ".0.0/16"),
    };
    await openWaysIn(lab, addresses);
    await Promise.all([goDirect(lab.host("laptop"), HOME4), goDirect(lab.host("tablet"), HOME4)]);
    return { lab, mechanism, server, node, addresses };
  } catch (thrown) {
    await lab[Symbol.asyncDispose]();
    throw thrown;
  }
}

async function serveAll(lab: Lab): Promise<void> {
  await lab.host("home-nas").execOrThrow(["ip", "addr", "add", `${METADATA}/32`, "dev", "lo"]);
  await lab.host("home-pc").execOrThrow(["ip", "route", "add", METADATA, "via", "192.168.1.20"]);
  await Promise.all([
    serve(lab.host("web"), [PORT, MAIL]),
    serve(lab.host("home-nas"), [SSH, HTTP]),
    serve(lab.host("home-pc"), [SSH]),
    serve(lab.host("home-router"), [HTTP]),
    serve(lab.host("laptop"), [PORT]),
    serve(lab.host("tablet"), [PORT]),
  ]);
}

/** Neighbours and the internet know the way into the tunnel, and the router lets it pass: only the node stands before it. */
async function openWaysIn(lab: Lab, at: Addresses): Promise<void> {
  const route = (host: string, to: string, via: string) =>
    lab.host(host).execOrThrow(["ip", "route", "add", to, "via", via]);
  await route("home-nas", at.range4, "192.168.1.10");
  await route("home-nas", WEB4, "192.168.1.10");
  await route("home-router", at.range4, "192.168.1.10");
  await route("web", at.range4, HOME4);
  for (const address of [at.laptop6, at.node6]) {
    await route("home-nas", `${address}/128`, NODE6);
    await route("home-router", `${address}/128`, NODE6);
    await route("internet", `${address}/128`, "2001:db8:7::7");
  }
  const pass = ["nft", "insert", "rule", "inet", "forward", "forward", "iifname", "wan"];
  await lab.host("home-router").execOrThrow([...pass, "ip", "daddr", at.range4, "accept"]);
  await lab.host("home-router").execOrThrow([...pass, "ip6", "daddr", `${at.laptop6}/128`, "accept"]);
}

/** Each probe with its answer, which is the server's name and port, or why there was none. */
export async function answersOf(host: LabHost, probes: Probes): Promise<Record<string, string>> {
  const answers = await ask(host, Object.values(probes));
  return Object.fromEntries(Object.keys(probes).map((name, at) => [name, answers[at] ?? ""]));
}

/** The names of the probes that got an answer from a server. */
export async function answered(host: LabHost, probes: Probes): Promise<readonly string[]> {
  return Object.entries(await answersOf(host, probes))
    .filter(([, answer]) => answer.includes(":"))
    .map(([name]) => name);
}

/** Takes the exit's rules away behind its back, while its process cannot put them back; then lets it go on, and do so. */
export async function withoutIsolation(scene: Scene, use: () => Promise<void>): Promise<void> {
  const { lab, mechanism, node, addresses } = scene;
  const pc = lab.host("home-pc");
  node.kill("SIGSTOP");
  try {
    await mechanism.giveAway(pc, addresses.range4);
    await use();
  } finally {
    await mechanism.takeBack(pc);
    node.kill("SIGCONT");
    await until(async () => (await mechanism.leaseLeftS(pc)) > 0, { what: "the rules' return" });
  }
}
