// The role `node`: an exit to the internet behind a router, assembled from its parts and taken apart again.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { repeat, SerialQueue, Stopped } from "../base/async.ts";
import { errorText, HiggsError } from "../base/errors.ts";
import { type Cidr, cidrContains, familyOf, type IpAddress } from "../base/ip.ts";
import { RESOLVER_PORT } from "../net/identifiers.ts";
import { nodeSystem } from "../net/os.ts";
import type { NodeSystem } from "../net/system.ts";
import { openBlockList } from "../node/dns-block-list.ts";
import { DEFAULT_UPSTREAMS, parseUpstream } from "../node/dns-upstream.ts";
import { type ConnectionRecord, openConnectionRecord } from "../node/connection-record.ts";
import { type Exit, openExit } from "../node/exit.ts";
import { outletOf, parseLogDays, termsOf } from "../node/exit-rules.ts";
import { openUpstream } from "../node/open-upstream.ts";
import { openResolver, type Resolver } from "../node/resolver.ts";
import { SessionPeers } from "../node/session-peers.ts";
import { EnrolmentStore, readEnrolment } from "../peer/enrolment.ts";
import { machineKeys } from "../peer/identity.ts";
import { watchDifferences } from "../net/watch-differences.ts";
import { joinNetwork, type Membership } from "../peer/membership.ts";
import { Mender } from "../peer/mender.ts";
import { listenPort } from "../peer/settings.ts";
import { openStateDir } from "../peer/state-dir.ts";
import { TrustStore } from "../peer/trust-store.ts";
import { openTunnel, type Tunnel } from "../peer/tunnel.ts";
import type { Config, Resolved } from "./config.ts";
import { checkChoices, chooseSettings, exitRulesOf, shownSettings } from "./node-settings.ts";
import { bodyOf, machineVerbs, trustVerbs } from "./machine-verbs.ts";
import { machinePaths, machinePorts, routerAccess } from "./machine-paths.ts";
import { nodeStatus } from "./node-status.ts";
import { openProxy } from "./proxy.ts";
import { startRuntime } from "./runtime.ts";
import { VERSION } from "./version.ts";

export interface NodeCallbacks {
  /** Takes one line of JSON. */
  readonly write: (line: string) => void;
  /** Once the tunnel is up and the control sockets answer. */
  readonly onReady: (name: string) => void;
}

export interface NodeSettings {
  readonly resolved: Resolved<"node">;
  /** The same again, once something else was chosen. */
  readonly again: () => Promise<Resolved<"node">>;
}

const setBody = z.object({ choices: z.record(z.string().max(32), z.string().max(4096).nullable()) });
const RECONCILE_MS = 30_000;
const DEFAULT_ROUTES: readonly Cidr[] = ["0.0.0.0/0" as Cidr, "::/0" as Cidr];

/** Runs until a signal, `down` or `leave`; then everything is undone. Throws NotEnrolled, AlreadyRunning, PrivilegeMissing, ToolMissing. */
export async function runNode(settings: NodeSettings, callbacks: NodeCallbacks): Promise<void> {
  let { resolved } = settings;
  const { config } = resolved;
  const upstreams = await openUpstreams(config);
  await using runtime = await startRuntime({
    role: "node",
    runDir: config.run,
    logLevel: config.logLevel,
    write: callbacks.write,
  });
  const { log, signal } = runtime;
  const dir = await openStateDir(config.state);
  const store = new EnrolmentStore(dir, await readEnrolment(dir, "node"));
  const keys = await machineKeys(dir);
  const trust = await TrustStore.open(dir);
  const proxy = await openProxy(dir, config.proxy);
  const os = await nodeSystem({
    stateDir: config.state,
    libexecDir: config.libexec,
    wireGuard: config.wireguard,
    untestedPlatform: config.untestedPlatform,
    command: "higgs node",
    log,
  });
  if (config.exit && os.firewallTrouble !== null) throw noExitWithoutFirewall(os.firewallTrouble);
  /** What clients are told is kept must be kept. */
  const requireRecord = (days: number): void => {
    if (config.exit && days > 0 && os.nftTrouble !== null) throw noRecordWithoutNft(os.nftTrouble);
  };
  requireRecord(exitRulesOf(config).logDays);
  const { ipv4, ipv6, range4, range6 } = store.value;
  await requireFreeRange(os, [range4, range6], signal);
  const addresses: readonly IpAddress[] = [ipv4, ipv6];
  const isOfNetwork = (address: IpAddress): boolean => cidrContains(range4, address) || cidrContains(range6, address);
  const startedAt = new Date();
  const choosing = new SerialQueue();

  let tunnel: Tunnel | null = null;
  let exit: Exit | null = null;
  let resolver: Resolver | null = null;
  let membership: Membership | null = null;
  let record: ConnectionRecord | null = null;
  let rules = exitRulesOf(config);

  /** In session, by name: the addresses that a part of the own network is opened for. */
  const addressesOf = (name: string): readonly IpAddress[] =>
    tunnelPeers().find((peer) => peer.name === name)?.addresses ?? [];
  const tunnelPeers = () => (membership === null || !membership.welcomed ? [] : sessionPeers.of(membership));
  const nameOf = (address: IpAddress): string | null =>
    tunnelPeers().find((peer) => peer.addresses.includes(address))?.name ?? null;
  const offer = () => ({
    routes: config.exit ? DEFAULT_ROUTES : [],
    endpoint: config.endpoint,
    ...(config.exit ? { terms: termsOf(rules, { filtersNames: config.dnsBlock.length > 0 }) } : {}),
  });

  /** What the owner chose holds at once: at the firewall first, and then clients are told. */
  async function choose(choices: Readonly<Record<string, string | null>>): Promise<void> {
    checkChoices(resolved, choices);
    requireRecord(parseLogDays(choices["exit-log"] ?? "off") ?? 0);
    await chooseSettings(dir, resolved, choices);
    resolved = await settings.again();
    rules = exitRulesOf(resolved.config);
    log.info({ choices }, "settings chosen");
    exit?.setOutlet(outletOf(rules, addressesOf));
    record?.setDays(config.exit ? rules.logDays : 0);
    membership?.reoffer(offer());
  }

  const onChange = (): void => {
    if (membership === null || tunnel === null || exit === null) return;
    // A node that starts again knows its clients and the router's addresses from the server alone; until it answers, those of before stay.
    if (!membership.welcomed) return;
    exit.setPublicAddresses(publicAddresses(membership, tunnel));
    const peers = sessionPeers.of(membership);
    exit.setClients(peers.flatMap((peer) => peer.addresses));
    exit.setOutlet(outletOf(rules, addressesOf));
    tunnel.sync(peers, signal).catch((thrown: unknown) => {
      if (!signal.aborted) log.error({ reason: errorText(thrown) }, "tunnel not as wanted");
    });
  };

  const mender = new Mender({ mend: async (what) => tunnel?.mend(what, signal), log, signal });

  const stack = new AsyncDisposableStack();
  const sessionPeers = stack.use(new SessionPeers(onChange));
  try {
    const joined = joinNetwork(
      { dir, store, keys, trust, proxy, log },
      {
        offer: offer(),
        version: VERSION,
        onChange,
        onPath: (message) => tunnel?.paths?.take(message),
        onWelcome: () => tunnel?.paths?.welcomed(),
      },
    );
    membership = stack.use(joined);
    // Isolation stands before there is anything to isolate.
    exit = openExit(
      exitDeps(os, () => resolver),
      {
        interface: os.identifiers.interface,
        resolverPort: RESOLVER_PORT,
        addresses,
        offered: config.exit,
        outlet: outletOf(rules, addressesOf),
        onChange: (state) => joined.presence(state),
      },
    );
    stack.use(exit);
    await exit.isolated;
    const wanted = { port: await listenPort(dir, config.port), allowed: config.paths };
    const ports = await machinePorts(os, wanted, signal);
    const paths = machinePaths(
      { os, membership: joined, log },
      {
        enrolment: store.value,
        allowed: config.paths,
        ports,
        manual: config.endpoint,
        guessesPorts: config.portGuessing,
        router: await routerAccess(os, { dir, portMapping: config.portMapping }),
        onChange,
      },
    );
    tunnel = await openTunnel(
      { device: os.wireGuard, relay: joined.relay, openPaths: paths, log },
      {
        privateKey: keys.wireGuard,
        listenPort: ports.wireGuard,
        addresses,
        prefixes: [range4, range6],
      },
      signal,
    );
    stack.use(tunnel);
    if (paths === null) await os.forgetPaths(signal);
    if (config.exit) {
      const blockList = await openBlockList(config.dnsBlock, log);
      resolver = await openResolver(
        {
          upstreams,
          log,
          isBlocked: (name) => blockList.has(name),
          privateDomains: new Set(config.dnsPrivate),
          isClient: isOfNetwork,
        },
        { addresses: await bindable(os, addresses), port: RESOLVER_PORT },
      );
      stack.use(resolver);
      stack.use(reconciling(() => blockList.refresh(), signal));
    }
    exit.poke();
    stack.use(
      os.watchLinks(() => {
        exit?.poke();
        onChange(); // the tunnel's own link may be gone
        mender.poke("all");
        tunnel?.paths?.networkChanged();
      }),
    );
    stack.use(os.watchSettings(() => exit?.poke()));
    stack.use(
      watchDifferences({
        look: async (lookSignal) => (await tunnel?.lookAtDevice(lookSignal)) ?? "right",
        onChange: () => mender.poke("all"),
      }),
    );
    record = stack.use(
      openConnectionRecord(
        { seen: os.connectionLog, nameOf, log },
        { dir: recordDir(config.state), days: config.exit ? rules.logDays : 0 },
      ),
    );
    stack.use(
      os.watchRules(() => {
        exit?.rulesTouched();
        record?.rulesTouched();
        mender.poke("rules");
      }),
    );
    stack.use(
      reconciling(() => {
        onChange();
        mender.poke("all");
      }, signal),
    );
    onChange();

    const shown = () => ({ rules, recordDir: recordDir(config.state), resolver: resolver?.counters ?? null });
    const view = { config, os, shown, store, joined, exit, tunnel, startedAt };
    const verbDeps = {
      membership: () => joined,
      os,
      trust,
      reach: () => Promise.resolve(),
      paths: () => tunnel?.paths ?? null,
      proxy: () => joined.proxy,
    };
    await runtime.serve({
      everyday: {
        ...machineVerbs(verbDeps),
        status: (_body, askSignal) => nodeStatus(view, askSignal),
        down: () => runtime.stop(),
        stop: () => runtime.stop(),
        verify: async (_body, askSignal) => ({
          differences: [
            ...(await os.exitFirewall.verify(askSignal)),
            ...(await os.connectionLog.verify(askSignal)),
            ...((await tunnel?.mend("all", askSignal)) ?? []),
            ...(await os.verifySettings()),
          ],
        }),
        "state-list": async (_body, askSignal) => ({ changes: await os.changes(askSignal) }),
        get: () => ({ schema: "higgs.node-settings/1", settings: shownSettings(resolved) }),
      },
      admin: {
        ...trustVerbs(verbDeps),
        set: async (body) => {
          await choosing.run(() => choose(bodyOf(setBody, body).choices));
          return { schema: "higgs.node-settings/1", settings: shownSettings(resolved) };
        },
      },
    });
    runtime.ready();
    callbacks.onReady(store.value.name);
    await aborted(signal);
  } finally {
    await stack.disposeAsync().catch((thrown: unknown) => {
      // What it could not put back itself is put back below, and what remains then is told.
      log.error({ reason: errorText(thrown) }, "the node did not close in order");
    });
    await undo(os);
  }
}

/** Beside the keys, for the same eyes. */
export function recordDir(stateDir: string): string {
  return join(stateDir, "connections");
}

function exitDeps(os: NodeSystem, resolver: () => Resolver | null) {
  return {
    firewall: os.exitFirewall,
    readLinks: os.readLinks,
    enableForwarding: os.enableForwarding,
    restoreForwarding: os.restoreForwarding,
    fence: os.fence,
    foreignDrops: os.foreignDrops,
    rulesBefore: os.rulesBefore,
    probeDns: async (signal: AbortSignal) =>
      (await resolver()?.probe(signal)) ?? (resolver() === null ? "the resolver is starting." : null),
    log: os.log,
  };
}

/** As the server sees this node, and as whoever it asked for the way through its router does. */
function publicAddresses(membership: Membership, tunnel: Tunnel): readonly IpAddress[] {
  const nat = tunnel.paths?.nat ?? null;
  const all = [membership.observedAddress, nat?.mapped4?.address ?? null, nat?.mapped6?.address ?? null];
  return [...new Set(all.filter((address) => address !== null))].sort();
}

/** What could not be done is tried again, whether or not anything changes meanwhile. */
function reconciling(onChange: () => void | Promise<void>, signal: AbortSignal): AsyncDisposable {
  const controller = new AbortController();
  const alive = AbortSignal.any([signal, controller.signal]);
  const task = async (): Promise<void> => await onChange();
  const loop = repeat(task, { everyMs: RECONCILE_MS, signal: alive, onError: () => undefined }); // onChange() has told of it
  return {
    async [Symbol.asyncDispose]() {
      controller.abort(new Stopped());
      await loop;
    },
  };
}

async function openUpstreams(config: Config<"node">) {
  const specs = (config.dns.length === 0 ? DEFAULT_UPSTREAMS : config.dns).map(parseUpstream);
  let caPem: string | null = null;
  if (config.dnsCa !== null) {
    try {
      caPem = await readFile(config.dnsCa, "utf8");
    } catch (cause) {
      throw new NodeError(`Cannot read ${config.dnsCa} (--dns-ca): ${errorText(cause)}.`, {
        code: "bad-setting",
        cause,
      });
    }
  }
  return specs.map((spec) => openUpstream(spec, { caPem }));
}

/** One prefix has one way: where another program's interface has that of the network, nothing is touched. */
async function requireFreeRange(os: NodeSystem, ranges: readonly Cidr[], signal: AbortSignal): Promise<void> {
  const taken = (await os.readLinks(signal)).connected.find(({ prefix }) => ranges.includes(prefix));
  if (taken === undefined) return;
  // The tunnel of a process before this one has its way already, and is adopted.
  if ((await os.changes(signal)).some(({ kind }) => kind === "device")) return;
  throw new NodeError(`Cannot start the node: ${taken.interface} has the very range of its network, ${taken.prefix}.`, {
    code: "range-clash",
    remedy: `Give the network of ${taken.interface} another range, or take it down: sudo ip link set ${taken.interface} down`,
  });
}

function noExitWithoutFirewall(trouble: HiggsError): NodeError {
  return new NodeError(`Cannot offer an exit, which nothing would isolate: ${trouble.message}`, {
    code: trouble.code,
    remedy: `${trouble.remedy ?? "Mend nft"}; or take part without an exit: higgs node --no-exit`,
    cause: trouble,
  });
}

function noRecordWithoutNft(trouble: HiggsError): NodeError {
  return new NodeError(`Cannot keep connections on record, which nft alone sees: ${trouble.message}`, {
    code: trouble.code,
    remedy: `${trouble.remedy ?? "Mend nft"}; or keep none: higgs node set exit-log=off`,
    cause: trouble,
  });
}

class NodeError extends HiggsError {
  override readonly name = "NodeError";
}

/** A machine without IPv6 gives the tunnel none; nothing can be bound there. */
async function bindable(os: NodeSystem, addresses: readonly IpAddress[]): Promise<IpAddress[]> {
  const ipv6 = await os.hasIpv6();
  return addresses.filter((address) => familyOf(address) === 4 || ipv6);
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

/** What was changed is put back even though the process is ending; each step has its own deadline. */
async function undo(os: NodeSystem): Promise<void> {
  const controller = new AbortController();
  for (const line of await os.undoAll(controller.signal)) os.log.info({}, line);
}
