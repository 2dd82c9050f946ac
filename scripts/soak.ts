// Random trouble for a network of the lab, minute after minute: after each piece of it the page must come through the exit again.
//
//   npm run soak -- --minutes 10 --seed 7
//   npm run soak -- --minutes 15 --herd 50 --without 'kill -9 the (server|node|client),|end the server|power|client down'
//
// With --herd so many more machines hold on to the server meanwhile; the second line's troubles leave every process alive, so that its
// memory can be followed. Fails when traffic did not come back, when a packet of the laptop passed outside the tunnel while it was connected, or when a
// process said something that no process should say. Prints what it did, how long each recovery took, and what the processes hold.
import { parseArgs } from "node:util";
import type { LabHost } from "../src/lab/host.ts";
import type { LabProcess } from "../src/lab/process.ts";
import { smallInternet } from "../src/lab/small-internet.ts";
import {
  DNS_FLAGS,
  HIGGS,
  higgs,
  HOME4,
  HOME6,
  invitesOf,
  page,
  PAGE4,
  PAGE6,
  startClientLab,
  startServer,
  wireGuardPids,
} from "../test/lab/client-lab.ts";
import { until } from "../test/lab/harness.ts";
import { HERD_HOST, startHerd, untilOnline } from "../test/lab/herd.ts";
import { randomFrom } from "../test/lab/random.ts";
import { growthOf, type Holding, holdingOf } from "../test/lab/holdings.ts";

type RoleName = "server" | "node" | "client";

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "5" },
    /** Minutes to leave the lab as it is after the first failure, for somebody to look at it. */
    hold: { type: "string", default: "0" },
    /** Troubles whose names match are left out, to look for what else there is. */
    without: { type: "string", default: "^$" },
    herd: { type: "string", default: "0" },
    seed: { type: "string", default: String(Date.now() % 100_000) },
  },
});
const minutes = Number(values.minutes);
const herdSize = Number(values.herd);
/** The same troubles for the same seed, as far as the moments of a real machine allow. */
const random = randomFrom(Number(values.seed));

/** Nothing may take longer: the server's reconnects back off to some seconds, and WireGuard's own timers to fifteen. */
const RECOVERY_MS = 30_000;
const HOSTS: Readonly<Record<RoleName, string>> = { server: "vps", node: "home-pc", client: "laptop" };
const FLAGS: Readonly<Record<RoleName, readonly string[]>> = { server: [], node: DNS_FLAGS, client: [] };
const ARGS: Readonly<Record<RoleName, readonly string[]>> = {
  server: ["server", "run"],
  node: ["node", "run"],
  client: ["client", "run"],
};
const SAMPLE_MS = 5_000;
/** A process of the runtime grows until its heap has been collected some times. */
const WARM_UP_MS = 4 * 60_000;
/** What is never a sentence for people: a fault of ours. */
const FAULT = /unhandled|TypeError|RangeError|ReferenceError|AssertionError|"level":60|panic:/i;

await using lab = await startClientLab(smallInternet({ extraHosts: [HERD_HOST] }));
const processes = new Map<RoleName, LabProcess>();
const faults: string[] = [];
const lost: string[] = [];
const recoveries: { readonly what: string; readonly ms: number }[] = [];

const firstServer = await startServer(lab);
watch("server", firstServer);
const invites = await invitesOf(firstServer);
for (const [role, invite] of [
  ["node", invites.node],
  ["client", invites.client],
] as const) {
  await host(role).execOrThrow([HIGGS, role, "join", invite], { timeoutMs: 20_000 });
  await start(role);
}
await untilPage("the start");
await using sniffer = await lab.host("cafe-router").sniff("lan", "host 203.0.113.80 or host 2001:db8:80::80");
const herd = herdSize === 0 ? null : await startHerd(lab, herdSize);
const samples = new Map<RoleName, Holding[]>([
  ["server", []],
  ["node", []],
  ["client", []],
]);
const sampling = setInterval(sample, SAMPLE_MS);
console.log(`seed ${values.seed}, ${minutes} minutes`);

interface Trouble {
  readonly what: string;
  readonly weight: number;
  /** True: the laptop is not connected meanwhile by its own wish, or for want of power, and its packets may go out. */
  readonly opens?: boolean;
  readonly make: () => Promise<void>;
}

const troubles: readonly Trouble[] = [
  ...(["server", "node", "client"] as const).map((role) => ({
    what: `kill -9 the ${role}, and start it`,
    weight: 3,
    make: async () => {
      await kill(role, "SIGKILL");
      await Bun.sleep(between(0, 2_000));
      await start(role);
    },
  })),
  {
    what: "end the server as a person does, and start it",
    weight: 2,
    make: async () => {
      await kill("server", "SIGTERM");
      await Bun.sleep(between(0, 1_000));
      await start("server");
    },
  },
  {
    what: "client down, and up",
    weight: 1,
    opens: true,
    make: async () => {
      await higgs(host("client"), "client", "down");
      await higgs(host("client"), "client", "up");
    },
  },
  ...(["node", "client"] as const).flatMap((role) => [
    {
      what: `kill -9 the WireGuard of the ${role}`,
      weight: 2,
      make: async () => {
        const pids = await wireGuardPids(host(role), interfaceOf(role));
        await host(role).exec(["kill", "-9", ...pids.map(String)]);
      },
    },
    {
      what: `delete the interface of the ${role}`,
      weight: 1,
      make: async () => void (await host(role).exec(["ip", "link", "del", interfaceOf(role)])),
    },
    {
      what: `flush the ruleset of the ${role}`,
      weight: 1,
      make: async () => void (await host(role).exec(["nft", "flush", "ruleset"])),
    },
    {
      what: `cut the power of the ${role}, and boot it`,
      weight: 1,
      opens: role === "client",
      make: async () => {
        processes.delete(role);
        await host(role).powerOff();
        await host(role).boot();
        await start(role);
      },
    },
  ]),
  {
    what: "flush the rules of the server",
    weight: 1,
    make: async () => void (await host("server").exec(["nft", "flush", "ruleset"])),
  },
  ...["cafe-router", "home-router"].flatMap((router) => [
    {
      what: `forget all connections of ${router}`,
      weight: 2,
      make: async () => void (await lab.host(router).exec(["conntrack", "-F"])),
    },
    { what: `no UDP through ${router} for a while`, weight: 2, make: () => cut(lab.host(router), "meta l4proto udp") },
    {
      what: `nothing through ${router} for a while`,
      weight: 1,
      make: () => cut(lab.host(router), "meta l4proto { tcp, udp, icmp }"),
    },
  ]),
  {
    what: "no HTTPS through cafe-router for a while",
    weight: 2,
    make: () => cut(lab.host("cafe-router"), "tcp dport 443"),
  },
];

const endAt = performance.now() + minutes * 60_000;
let rounds = 0;
while (performance.now() < endAt) {
  const trouble = choose(troubles.filter(({ what }) => !new RegExp(values.without).test(what)));
  rounds++;
  sniffer.clear();
  const startedAt = performance.now();
  process.stdout.write(`${String(rounds).padStart(4)}  ${trouble.what} … `);
  await trouble.make();
  await untilPage(trouble.what);
  const leaks = trouble.opens === true ? [] : sniffer.packets().map(({ text }) => text);
  if (leaks.length > 0) lost.push(`${leaks.length} packets outside the tunnel after: ${trouble.what}: ${leaks[0]}`);
  const ms = performance.now() - startedAt;
  console.log(
    `${String(rounds).padStart(4)}  ${(ms / 1000).toFixed(1).padStart(5)} s  ${trouble.what}${leaks.length > 0 ? "  LEAK" : ""}`,
  );
  await Bun.sleep(between(0, 3_000));
}

clearInterval(sampling);
for (const line of firstServer.lines) note("server", line);
for (const [role, taken] of samples) {
  const growth = growthOf(taken, WARM_UP_MS);
  if (growth === null) {
    console.log(`${role}: no process lived long enough to be followed; ${taken.length} looks`);
    continue;
  }
  const { first, last, minutes: span, mebibytesPerHour: slope, laterPerHour } = growth;
  const text = [first, last].map(
    (one) => `${mebibytes(one.ownKiB)} of ${mebibytes(one.residentKiB)} MiB, ${one.files} files`,
  );
  console.log(
    `${role}: ${text.join(" -> ")} in ${span.toFixed(1)} min, ${slope.toFixed(1)} MiB/h by least squares, ${laterPerHour.toFixed(1)} in the later half`,
  );
}
if (herd !== null) {
  await untilOnline(lab, herd).catch((thrown: unknown) => lost.push(`the herd: ${String(thrown)}`));
  for (const line of herd.said) faults.push(`the herd said: ${line}`);
  console.log(`the herd: ${herd.count} machines, ${herd.welcomes.length} welcomes`);
}
const worst = recoveries.toSorted((a, b) => b.ms - a.ms).slice(0, 3);
console.log(`slowest: ${worst.map(({ what, ms }) => `${(ms / 1000).toFixed(1)} s (${what})`).join(", ")}`);
for (const line of [...lost, ...faults]) console.log(`FAILED ${line}`);
console.log(`${rounds} troubles, ${lost.length + faults.length} failures`);
process.exitCode = lost.length + faults.length === 0 && rounds > 0 ? 0 : 1;

function host(role: RoleName): LabHost {
  return lab.host(HOSTS[role]);
}

function interfaceOf(role: "node" | "client"): string {
  return role === "node" ? "higgsn0" : "higgs0";
}

async function start(role: RoleName): Promise<void> {
  watch(role, await host(role).spawn([HIGGS, ...ARGS[role], ...FLAGS[role]], { onLine: (line) => note(role, line) }));
}

function watch(role: RoleName, running: LabProcess): void {
  processes.set(role, running);
}

function note(role: RoleName, line: string): void {
  if (FAULT.test(line) && faults.length < 50) faults.push(`the ${role} said: ${line.slice(0, 400)}`);
}

async function kill(role: RoleName, signal: "SIGKILL" | "SIGTERM"): Promise<void> {
  processes.get(role)?.kill(signal);
  await processes.get(role)?.exited;
}

async function cut(router: LabHost, what: string): Promise<void> {
  const rules = `table inet soak {\n chain forward {\n type filter hook forward priority -20\n ${what} drop\n }\n}`;
  await router.execOrThrow(["nft", "-f", "-"], { stdin: rules });
  await Bun.sleep(between(1_000, 8_000));
  await router.execOrThrow(["nft", "delete", "table", "inet", "soak"]);
}

async function untilPage(what: string): Promise<void> {
  const startedAt = performance.now();
  const comes = async (): Promise<boolean> => {
    const [four, six] = await Promise.all([page(host("client"), PAGE4), page(host("client"), PAGE6)]);
    return four === HOME4 && six === HOME6;
  };
  try {
    await until(comes, { timeoutMs: RECOVERY_MS, everyMs: 100 });
    recoveries.push({ what, ms: performance.now() - startedAt });
  } catch {
    lost.push(`no page within ${RECOVERY_MS / 1000} s after: ${what}`);
    for (const role of ["server", "node", "client"] as const) {
      console.log(`--- ${role}, pid of its host: ${host(role).pid}`, processes.get(role)?.lines.slice(-12).join("\n"));
    }
    await Bun.sleep(Number(values.hold) * 60_000);
  }
}

function sample(): void {
  for (const [role, taken] of samples) {
    const found = holdingOf(host(role), [HIGGS, role]);
    if (found !== null) taken.push(found);
  }
}

function mebibytes(kibibytes: number): string {
  return (kibibytes / 1024).toFixed(1);
}

function choose(from: readonly Trouble[]): Trouble {
  let left = random() * from.reduce((sum, { weight }) => sum + weight, 0);
  for (const one of from) {
    left -= one.weight;
    if (left < 0) return one;
  }
  return from[0] as Trouble;
}

function between(least: number, most: number): number {
  return least + random() * (most - least);
}
