// Runs the real binaries between every two kinds of NAT, and writes which path each pair got to docs/nat-grid.md.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { LabHost } from "../src/lab/host.ts";
import type { Lab } from "../src/lab/lab.ts";
import { smallInternet } from "../src/lab/small-internet.ts";
import type { HostSpec, NatKind, RouterSpec, Topology } from "../src/lab/topology.ts";
import { HIGGS, HOME4, invite, invitesOf, PAGE4, startNode, startServer } from "../test/lab/client-lab.ts";
import { startHiggsLab, until } from "../test/lab/harness.ts";
import { projectDir } from "./project.ts";

type Kind = Exclude<NatKind, "none"> | "udp-blocked";
type Path = "direct" | "udp-relay" | "wss";

/** In the order of the table. */
const KINDS: readonly Kind[] = [
  "static",
  "full-cone",
  "address-restricted",
  "port-restricted",
  "port-restricted-non-preserving",
  "symmetric-sequential",
  "symmetric-address",
  "symmetric-random",
  "udp-blocked",
];
/** These take packets from hosts that were sent to, whatever the port: what the other router does is of no matter. */
const OPEN: readonly Kind[] = ["static", "full-cone", "address-restricted"];
const PORT_RESTRICTED: readonly Kind[] = ["port-restricted", "port-restricted-non-preserving"];

const TRAFFIC_MS = 3_000;
const PATH_MS = 10_000;
const DOCUMENT = join(projectDir, "docs/nat-grid.md");

interface Wanted {
  readonly path: Path;
  /** By what, where simultaneous opening does not do. */
  readonly with: "prediction" | "guessing" | "luck" | null;
}

/** Opening at the same instant, with the addresses that the peer's packets show, and then other ports. */
function wantedOf(a: Kind, b: Kind): Wanted {
  const pair = [a, b];
  if (pair.includes("udp-blocked")) return { path: "wss", with: null };
  if (pair.some((kind) => OPEN.includes(kind))) return { path: "direct", with: null };
  const easy = pair.filter((kind) => PORT_RESTRICTED.includes(kind)).length;
  if (easy === 2) return { path: "direct", with: null };
  if (easy === 0)
    return { path: "udp-relay", with: pair.every((kind) => kind === "symmetric-address") ? "luck" : null };
  return { path: "direct", with: pair.includes("symmetric-sequential") ? "prediction" : "guessing" };
}

function isWanted(path: string, wanted: Wanted): boolean {
  return path === wanted.path || (wanted.with === "luck" && path === "direct");
}

interface Cell {
  readonly home: Kind;
  readonly cafe: Kind;
  readonly path: string;
  /** From the start of the client's process. */
  readonly trafficMs: number | null;
  readonly pathMs: number | null;
  readonly trouble: string | null;
}

function routerOf(kind: Kind, staticTo: string): Pick<RouterSpec, "nat" | "staticTo" | "blockUdp"> {
  return kind === "udp-blocked" ? { nat: "port-restricted", staticTo, blockUdp: true } : { nat: kind, staticTo };
}

/** One home, and a café of each kind, each with an address of its own, so that no cell finds what another left behind. */
function rowTopology(home: Kind): Topology {
  const base = smallInternet({ homeIpv6: false, cafeIpv6: false, homeRouter: routerOf(home, "192.168.1.10") });
  const own = ["cafe-router", "laptop"];
  const cafes = KINDS.map((kind, i) => cafeHosts(base, kind, i));
  return {
    segments: [...base.segments.filter(({ name }) => name !== "cafe-lan"), ...cafes.map(({ segment }) => segment)],
    hosts: [...base.hosts.filter(({ name }) => !own.includes(name)), ...cafes.flatMap(({ hosts }) => hosts)],
  };
}

/** The café of the small internet and its laptop, with another number. */
function cafeHosts(base: Topology, kind: Kind, i: number) {
  const segment = { name: `cafe-${i}` };
  const renumbered = (text: string): string =>
    text.replace(/^203\.0\.113\.66\b/, `203.0.113.${100 + i}`).replace(/^192\.168\.7\./, `192.168.${100 + i}.`);
  const hosts = base.hosts.flatMap((host): HostSpec[] => {
    if (host.name !== "cafe-router" && host.name !== "laptop") return [];
    return [
      {
        ...host,
        name: `${host.name}-${i}`,
        interfaces: host.interfaces.map((link) => ({
          ...link,
          segment: link.segment === "cafe-lan" ? segment.name : link.segment,
          ...(link.ipv4 === undefined ? {} : { ipv4: renumbered(link.ipv4) }),
        })),
        routes: host.routes.map((route) => ({ ...route, via: renumbered(route.via) })),
        nameservers: host.nameservers.map(renumbered),
        ...(host.router === undefined
          ? {}
          : { router: { ...host.router, ...routerOf(kind, renumbered("192.168.7.2")) } }),
      },
    ];
  });
  return { segment, hosts };
}

/** The laptops start one after the other; each is watched while the next ones start, and ends after its own ten seconds. */
async function runRow(home: Kind): Promise<Cell[]> {
  await using lab = await startHiggsLab(rowTopology(home));
  const invites = await invitesOf(await startServer(lab));
  await startNode(lab, "--join", invites.node);
  const watching: Promise<Cell>[] = [];
  for (const [i, cafe] of KINDS.entries()) {
    const cell = await startCell(lab, { home, cafe, laptop: lab.host(`laptop-${i}`) });
    watching.push(cell());
  }
  return await Promise.all(watching);
}

/** Resolves with what watches the path when traffic flows, or will not. */
async function startCell(
  lab: Lab,
  on: { readonly home: Kind; readonly cafe: Kind; readonly laptop: LabHost },
): Promise<() => Promise<Cell>> {
  const { home, cafe, laptop } = on;
  const wanted = wantedOf(home, cafe);
  await laptop.execOrThrow([HIGGS, "client", "join", await invite(lab, "client")]);
  const startedAt = performance.now();
  let path = "wss";
  let pathAt: number | null = null;
  const client = await laptop.spawn([HIGGS, "client", "run"], {
    onLine(line) {
      const changed = /"path":"([a-z-]+)".*"msg":"path changed"/.exec(line)?.[1];
      if (changed === undefined) return;
      path = changed;
      pathAt = performance.now();
    },
  });
  const browses = async (): Promise<boolean> =>
    (await laptop.exec(["curl", "-sS", "--max-time", "1", PAGE4])).stdout.trim() === HOME4;
  let hasTraffic = true;
  await until(browses, { timeoutMs: PATH_MS, what: "the page by the home" }).catch(() => {
    hasTraffic = false;
  });
  const trafficMs = hasTraffic ? performance.now() - startedAt : null;
  return async () => {
    // What is not direct now may be so at the end of its time; a direct path is the best there is.
    while (path !== "direct" && performance.now() - startedAt < PATH_MS) await Bun.sleep(50);
    const pathMs = pathAt === null ? null : pathAt - startedAt;
    const { stdout } = await laptop.exec([HIGGS, "client", "status", "--json"]);
    const said = /"path":\{"kind":"([a-z-]+)"/.exec(stdout)?.[1] ?? "none";
    const wrong = isWanted(said, wanted) ? [] : [`${wanted.path} expected`];
    if (trafficMs === null) wrong.push(`no traffic in ${seconds(PATH_MS)}`);
    else if (trafficMs > TRAFFIC_MS) wrong.push(`traffic only after ${seconds(trafficMs)}`);
    const trouble = wrong.length === 0 ? null : wrong.join(", ");
    const cell = { home, cafe, path: said, trafficMs, pathMs, trouble };
    client.kill();
    await client.exited;
    console.log(`${trouble === null ? "ok    " : "DIFFERS"} ${home} x ${cafe}: ${textOf(cell)}`);
    return cell;
  };
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}

function textOf({ path, pathMs, trouble }: Cell): string {
  const time = pathMs === null ? "" : ` ${seconds(pathMs)}`;
  return `${path}${time}${trouble === null ? "" : ` (${trouble})`}`;
}

const NOTES = { prediction: "¹", guessing: "²", luck: "³" } as const;

function documentOf(cells: readonly Cell[]): string {
  const total = KINDS.length ** 2;
  const otherPath = cells.filter(({ home, cafe, path }) => !isWanted(path, wantedOf(home, cafe))).length;
  const late = cells.filter(({ trafficMs }) => trafficMs === null || trafficMs > TRAFFIC_MS).length;
  const at = (home: Kind, cafe: Kind): string => {
    const cell = cells.find((one) => one.home === home && one.cafe === cafe);
    const guess = wantedOf(home, cafe).with;
    return cell === undefined ? "not run" : `${textOf(cell)}${guess === null ? "" : NOTES[guess]}`;
  };
  const rows = KINDS.map((home) => `| **${home}** | ${KINDS.map((cafe) => at(home, cafe)).join(" | ")} |`);
  return `# Which path between which routers

Written by \`npm run nat-grid\`, which needs root: the real binaries in the lab, an exit behind a router of the kind at the left, a
laptop behind one of the kind above, IPv4 only. Each cell has the path that the laptop reports, and when it was taken, counted from
the start of its process. A path that is not direct was watched for ${PATH_MS / 1000} s.

${cells.length} of ${total} cells ran. The path differs from what is expected in ${otherPath} of them. The first page came through the exit later
than ${seconds(TRAFFIC_MS)} after the start, or not at all, in ${late}.

| exit \\ laptop | ${KINDS.join(" | ")} |
|---|${KINDS.map(() => "---").join("|")}|
${rows.join("\n")}

Expected is what both ends reach by opening at the same instant, with the addresses that the server sees and those that the peer's
packets show, and then by other ports. Two symmetric routers, or one that blocks UDP, leave the relay; \`wss\` where UDP is blocked,
else \`udp-relay\`.

¹ By the ports that the symmetric router gives out next.
² By many ports at one end and guesses from the other.
³ Direct by luck counts too: one server with one address cannot tell such a router from one that gives each machine one port. So both
ends guess, and the lab's router has only 512 ports to give.
`;
}

const cells: Cell[] = [];
for (const home of KINDS) cells.push(...(await runRow(home)));
writeFileSync(DOCUMENT, documentOf(cells));
const differing = cells.filter(({ trouble }) => trouble !== null);
console.log(`${cells.length} of ${KINDS.length ** 2} cells ran, ${differing.length} differ; see docs/nat-grid.md`);
process.exit(differing.length === 0 && cells.length === KINDS.length ** 2 ? 0 : 1);
