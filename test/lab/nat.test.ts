// Classifies every kind of NAT that a lab router can have, from a host behind it, by RFC 4787's mapping and filtering.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { type Lab, startLab } from "../../src/lab/lab.ts";
import type { HostSpec, NatKind, RouterSpec, Topology } from "../../src/lab/topology.ts";
import { requireLab, until } from "./harness.ts";

interface Classified {
  readonly mapping: "endpoint-independent" | "address" | "address-and-port";
  readonly filtering: "endpoint-independent" | "address" | "address-and-port";
  readonly keepsPort: boolean;
}

const EXPECTED: Readonly<Record<Exclude<NatKind, "none">, Classified>> = {
  static: { mapping: "endpoint-independent", filtering: "endpoint-independent", keepsPort: true },
  "full-cone": { mapping: "endpoint-independent", filtering: "endpoint-independent", keepsPort: true },
  "address-restricted": { mapping: "endpoint-independent", filtering: "address", keepsPort: true },
  "port-restricted": { mapping: "endpoint-independent", filtering: "address-and-port", keepsPort: true },
  "port-restricted-non-preserving": {
    mapping: "endpoint-independent",
    filtering: "address-and-port",
    keepsPort: false,
  },
  "symmetric-sequential": { mapping: "address-and-port", filtering: "address-and-port", keepsPort: false },
  "symmetric-address": { mapping: "address", filtering: "address-and-port", keepsPort: false },
  "symmetric-random": { mapping: "address-and-port", filtering: "address-and-port", keepsPort: false },
  "symmetric-pool": { mapping: "address-and-port", filtering: "address-and-port", keepsPort: false },
};
const KINDS = Object.keys(EXPECTED) as (keyof typeof EXPECTED)[];

const A = "203.0.113.10";
const B = "203.0.113.20";

/**
 * On A and B. "here" is answered from where it came to; "port" from the other port as well, "host" from the other host as well,
 * each before the answer from where it came to, so that a client knows without a clock that nothing else will come.
 */
const SERVER = `
  const [own, other] = process.argv.slice(1);
  const sockets = [];
  const data = (index) => (socket, bytes, port, address) => {
    const [word, toAddress, toPort] = bytes.toString().split(" ");
    const seen = address + " " + port;
    if (word === "here") socket.send("here " + seen, port, address);
    if (word === "port") { sockets[1 - index].send("port", port, address); socket.send("done", port, address); }
    if (word === "host") socket.send("relay " + seen, 3000, other);
    if (word === "relay") { socket.send("host", Number(toPort), toAddress); socket.send("relayed " + toAddress + " " + toPort, port, address); }
    if (word === "relayed") socket.send("done", Number(toPort), toAddress);
  };
  for (const index of [0, 1]) sockets.push(await Bun.udpSocket({ hostname: own, port: 3000 + index, socket: { data: data(index) } }));
  console.log("ready");`;

/** Says, for each of two local ports: the address that A:3000, A:3001 and B:3000 see, and which answers came from elsewhere. */
const CLIENT = `
  const [a, b] = process.argv.slice(1);
  for (const local of [5000, 5001]) {
    const heard = [];
    let wake = () => undefined;
    const socket = await Bun.udpSocket({ port: local, socket: { data(_, bytes) { heard.push(bytes.toString()); wake(); } } });
    const ask = async (word, port, host, end) => {
      socket.send(word, port, host);
      for (;;) {
        const at = heard.findIndex((text) => text.startsWith(end));
        if (at >= 0) return heard.splice(0).find((text) => text.startsWith(end));
        await new Promise((resolve) => { wake = resolve; });
      }
    };
    const results = { port: false, host: false, seen: [] };
    results.seen.push(await ask("here", 3000, a, "here"));
    for (const word of ["port", "host"]) {
      socket.send(word, 3000, a);
      while (!heard.includes("done")) await new Promise((resolve) => { wake = resolve; });
      results[word] = heard.splice(0).includes(word);
    }
    results.seen.push(await ask("here", 3001, a, "here"), await ask("here", 3000, b, "here"));
    console.log(JSON.stringify(results));
    socket.close();
  }`;

interface Probed {
  readonly port: boolean;
  readonly host: boolean;
  readonly seen: readonly string[];
}

function classify(probes: readonly Probed[]): Classified {
  const some = (differs: (probe: Probed) => boolean): boolean => probes.some(differs);
  return {
    mapping: some((probe) => probe.seen[0] !== probe.seen[1])
      ? "address-and-port"
      : some((probe) => probe.seen[0] !== probe.seen[2])
        ? "address"
        : "endpoint-independent",
    filtering: some((probe) => probe.host)
      ? "endpoint-independent"
      : some((probe) => probe.port)
        ? "address"
        : "address-and-port",
    keepsPort: probes.every((probe, index) => probe.seen[0]?.endsWith(` ${5000 + index}`) === true),
  };
}

let lab: Lab;
beforeAll(async () => {
  await requireLab();
  lab = await startLab(natInternet(), { programs: { bun: process.execPath } });
  for (const [host, own, other] of [
    ["a", A, B],
    ["b", B, A],
  ] as const) {
    const server = await lab.host(host).spawn(["bun", "-e", SERVER, own, other]);
    await server.waitForLine(/^ready$/);
  }
}, 60_000);
afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
});

describe("a lab router", () => {
  for (const kind of KINDS) {
    test(`of the kind "${kind}" maps and filters as its name says`, async () => {
      const said = await lab.host(`behind-${kind}`).execOrThrow(["bun", "-e", CLIENT, A, B], { timeoutMs: 30_000 });
      const probes = said
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line) as Probed);
      expect({ kind, ...classify(probes), probes }).toMatchObject({ kind, ...EXPECTED[kind] });
    });
  }

  test("passes a forwarded port on, also for the LAN itself where it does hairpin", async () => {
    const listener = `Bun.serve({ port: 8080, fetch: () => new Response("forwarded") }); console.log("ready")`;
    await using server = await lab.host("behind-forwards").spawn(["bun", "-e", listener]);
    await server.waitForLine(/^ready$/);
    for (const from of ["a", "behind-forwards", "neighbour"]) {
      const { stdout } = await lab.host(from).exec(["curl", "-sS", "--max-time", "10", "http://203.0.113.200:80/"]);
      expect({ from, stdout }).toEqual({ from, stdout: "forwarded" });
    }
  });

  test("that blocks UDP lets TCP and DNS out and nothing else", async () => {
    await using sniffer = await lab.host("a").sniff("eth0", "ip and src host 203.0.113.201");
    const send = `
      const socket = await Bun.udpSocket({ socket: { error: () => undefined } }); // nobody listens there
      for (const port of [3000, 53]) socket.send("x", port, "${A}");
      await fetch("http://${A}:81/").catch(() => undefined);
      socket.close();`;
    await lab.host("behind-no-udp").execOrThrow(["bun", "-e", send], { timeoutMs: 30_000 });
    const kinds = () =>
      new Set(sniffer.packets().map((packet) => packet.text.replace(/^(\w+) .* > \S+:(\d+) .*$/, "$1 $2")));
    await until(() => kinds().size >= 2); // the one that is blocked was sent before the two that are not
    expect([...kinds()].toSorted()).toEqual(["tcp 81", "udp 53"]);
  });
});

function natInternet(): Topology {
  const hosts: HostSpec[] = [internetHost("a", A), internetHost("b", B)];
  const segments = [{ name: "internet" }];
  const site = (name: string, n: number, router: Omit<RouterSpec, "wan" | "lan">): void => {
    const lan = `192.168.${n}`;
    segments.push({ name: `lan-${n}` });
    hosts.push({
      name: `router-${name}`,
      kind: "router",
      interfaces: [
        { name: "wan", segment: "internet", ipv4: `203.0.113.${n}/24` },
        { name: "lan", segment: `lan-${n}`, ipv4: `${lan}.1/24` },
      ],
      routes: [],
      nameservers: [],
      router: { wan: "wan", lan: "lan", ...router },
    });
    hosts.push(lanHost(`behind-${name}`, n, 2));
  };
  for (const [index, kind] of KINDS.entries())
    site(kind, 100 + index, { nat: kind, staticTo: `192.168.${100 + index}.2` });
  site("forwards", 200, {
    nat: "port-restricted",
    hairpin: true,
    forwards: [{ protocol: "tcp", port: 80, to: "192.168.200.2", toPort: 8080 }],
  });
  site("no-udp", 201, { nat: "port-restricted", blockUdp: true });
  hosts.push(lanHost("neighbour", 200, 3));
  return { segments, hosts };
}

function internetHost(name: string, address: string): HostSpec {
  const interfaces = [{ name: "eth0", segment: "internet", ipv4: `${address}/24` }];
  return { name, kind: "host", interfaces, routes: [], nameservers: [] };
}

function lanHost(name: string, n: number, last: number): HostSpec {
  const interfaces = [{ name: "eth0", segment: `lan-${n}`, ipv4: `192.168.${n}.${last}/24` }];
  return { name, kind: "host", interfaces, routes: [{ to: "default4", via: `192.168.${n}.1` }], nameservers: [] };
}
