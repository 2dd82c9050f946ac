// Builds the hosts of a topology on this machine, wires them, and takes everything away again.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { makeLabCertificates, type LabCertificates } from "./ca.ts";
import { ETC_SHARED, makeDisk } from "./disk.ts";
import { LabTopologyInvalid } from "./errors.ts";
import { startHolder } from "./holder.ts";
import type { Holder } from "./holder.ts";
import { enterArgv, enterNetworkArgv, labHost } from "./host.ts";
import type { LabHost } from "./host.ts";
import { bootSteps } from "./machine.ts";
import { routerRuleset } from "./nat.ts";
import { spawnEntered } from "./process.ts";
import { LAB_SERVICE_READY, labDelayArguments, labServiceArguments } from "./service.ts";
import { DNS_NAME } from "./small-internet.ts";
import { runChild, runChildOrThrow } from "./spawn.ts";
import { checkTopology, interfaceAddresses } from "./topology.ts";
import type { HostSpec, Topology } from "./topology.ts";
import { addressBatch, cableBatch, lineBatch, longLines, segmentBatch, uncableBatch } from "./wire.ts";
import { makeWorkDir } from "./work-dir.ts";

export interface LabOptions {
  /** Where the lab's folder is made. Default: the system's folder for temporary files. */
  readonly workDir?: string;
  readonly signal?: AbortSignal;
  /** Programs to be found as /usr/local/bin/<name> in every host: { higgs: "/path/to/higgs" }. */
  readonly programs?: Readonly<Record<string, string>>;
  /** Directories that every host sees though they lie below /root or /tmp, which are each host's own. */
  readonly visible?: readonly string[];
  /** What runs a service of the topology, before its two arguments: ["/usr/local/bin/higgs", "lab-service"]. Without it, none run. */
  readonly serviceProgram?: readonly string[];
  readonly onEvent?: (event: LabEvent) => void;
}

export type LabEvent =
  | { readonly kind: "segment-up"; readonly segment: string }
  | { readonly kind: "host-up"; readonly host: string; readonly pid: number }
  | { readonly kind: "service-up"; readonly host: string; readonly service: string }
  | { readonly kind: "host-off"; readonly host: string };

export interface Lab extends AsyncDisposable {
  readonly topology: Topology;
  /** The lab's folder on the machine; gone with the lab. */
  readonly dir: string;
  readonly hosts: readonly LabHost[];
  readonly events: readonly LabEvent[];
  host(name: string): LabHost;
}

/** Resolves when every host is up. Aborting `signal` during the start takes away what was built; afterwards, dispose. */
export async function startLab(topology: Topology, options: LabOptions = {}): Promise<Lab> {
  checkTopology(topology);
  options.signal?.throwIfAborted();
  const stack = new AsyncDisposableStack();
  try {
    const work = stack.use(makeWorkDir(options.workDir));
    const events: LabEvent[] = [];
    const tell = (event: LabEvent): void => {
      events.push(event);
      options.onEvent?.(event);
    };
    const certificates = await makeLabCertificates(DNS_NAME, dnsAddresses(topology));
    const switches = await startSwitches(topology);
    stack.defer(() => switches.cut());
    await startLines(switches, topology, options);
    for (const { name } of topology.segments) tell({ kind: "segment-up", segment: name });
    const build: Build = { topology, options, switches, certificates, dir: work.dir, tell };
    const hosts = topology.hosts.map((spec) => buildHost(spec, build));
    stack.defer(async () => {
      await Promise.all(hosts.map((host) => host.powerOff()));
    });
    await settled(hosts.map((host) => host.boot()));
    options.signal?.throwIfAborted();
    const byName = new Map(hosts.map((host) => [host.name, host]));
    const over = stack.move();
    return {
      topology,
      dir: work.dir,
      hosts,
      events,
      host(name) {
        const host = byName.get(name);
        if (host !== undefined) return host;
        throw new LabTopologyInvalid(
          `Cannot find the lab host "${name}": there are ${[...byName.keys()].join(", ")}.`,
          {
            code: "lab-no-host",
          },
        );
      },
      [Symbol.asyncDispose]: () => over.disposeAsync(),
    };
  } catch (thrown) {
    await stack.disposeAsync();
    throw thrown;
  }
}

interface Build {
  readonly topology: Topology;
  readonly options: LabOptions;
  readonly switches: Holder;
  readonly certificates: LabCertificates;
  readonly dir: string;
  readonly tell: (event: LabEvent) => void;
}

function dnsAddresses(topology: Topology): readonly string[] {
  return topology.hosts
    .filter((host) => host.services?.some((service) => service.kind === "dns") === true)
    .flatMap(interfaceAddresses);
}

/** The bridges have a namespace of their own, so that a router can be switched off without unplugging its neighbours. */
async function startSwitches(topology: Topology): Promise<Holder> {
  const quiet = "/proc/sys/net/ipv6/conf/default/disable_ipv6"; // a switch has no addresses
  const holder = await startHolder("switches", [{ do: "sysctl", path: quiet, value: "1" }]);
  try {
    await ipBatch(holder.pid, segmentBatch(topology.segments));
    return holder;
  } catch (thrown) {
    await holder.cut();
    throw thrown;
  }
}

/** The process that holds packets up lives with the switches, and outlives each of the hosts at the ends. */
async function startLines(switches: Holder, topology: Topology, options: LabOptions): Promise<void> {
  const lines = longLines(topology);
  if (lines.length === 0) return;
  const program = options.serviceProgram?.map((word) => onThisMachine(word, options.programs ?? {}));
  if (program === undefined) {
    throw new LabTopologyInvalid("Cannot build the lab: nobody was named to run its long lines.", {
      code: "lab-topology-invalid",
    });
  }
  await ipBatch(switches.pid, lineBatch(topology));
  const running = await spawnEntered(enterArgv(switches.pid, [...program, ...labDelayArguments(lines)]));
  await running.waitForLine(new RegExp(`^${LAB_SERVICE_READY}$`));
}

/** The switches have no disk of their own: what hosts have as /usr/local/bin/NAME is there where it came from. */
function onThisMachine(word: string, programs: Readonly<Record<string, string>>): string {
  const name = /^\/usr\/local\/bin\/([^/]+)$/.exec(word)?.[1];
  return (name === undefined ? undefined : programs[name]) ?? word;
}

function buildHost(spec: HostSpec, build: Build): LabHost {
  const { topology, switches, options } = build;
  const hostDir = join(build.dir, "hosts", spec.name);
  const { certificates } = build;
  const boundPrograms = makeDisk(spec, { hostDir, certificates, programs: options.programs ?? {} });
  const steps = bootSteps(spec, {
    hostDir,
    boundPrograms,
    visible: options.visible ?? [],
    sharedEtc: ETC_SHARED.filter((name) => existsSync(join("/etc", name))),
    hasLocalBin: existsSync("/usr/local/bin"),
  });
  return labHost(spec, {
    async start() {
      const holder = await startHolder(spec.name, steps);
      try {
        await ipBatch(switches.pid, cableBatch(topology, spec, holder.pid));
        await ipBatch(holder.pid, addressBatch(spec));
        const ruleset = routerRuleset(spec);
        if (ruleset !== "") await runChildOrThrow(enterNetworkArgv(holder.pid, ["nft", "-f", "-"]), { stdin: ruleset });
        // After the rules, as conntrack's own settings appear with it.
        const sysctls = Object.entries(spec.sysctls ?? {}).map(([key, value]) => `${key}=${value}`);
        if (sysctls.length > 0) await runChildOrThrow(enterArgv(holder.pid, ["sysctl", "-q", "-w", ...sysctls]));
        build.tell({ kind: "host-up", host: spec.name, pid: holder.pid });
        await startServices(spec, { holder, build });
        return holder;
      } catch (thrown) {
        await holder.cut();
        throw thrown;
      }
    },
    async unplug() {
      build.tell({ kind: "host-off", host: spec.name });
      // The kernel takes the far ends away by itself, some time after the host; a boot in between would find the names taken.
      await runChild(enterNetworkArgv(switches.pid, ["ip", "-force", "-batch", "-"]), {
        stdin: uncableBatch(topology, spec),
      });
    },
  });
}

/** They end with their host. */
async function startServices(spec: HostSpec, on: { readonly holder: Holder; readonly build: Build }): Promise<void> {
  const program = on.build.options.serviceProgram;
  if (program === undefined) return;
  for (const service of spec.services ?? []) {
    const argv = [...program, ...labServiceArguments(spec, service)];
    const running = await spawnEntered(enterArgv(on.holder.pid, argv));
    await running.waitForLine(new RegExp(`^${LAB_SERVICE_READY}$`));
    on.build.tell({ kind: "service-up", host: spec.name, service: service.kind });
  }
}

async function ipBatch(pid: number, text: string): Promise<void> {
  await runChildOrThrow(enterNetworkArgv(pid, ["ip", "-batch", "-"]), { stdin: text });
}

/** As Promise.all, but throws only when all are over, so that nothing is still being built while it is taken away. */
async function settled(promises: readonly Promise<void>[]): Promise<void> {
  const results = await Promise.allSettled(promises);
  for (const result of results) if (result.status === "rejected") throw result.reason;
}
