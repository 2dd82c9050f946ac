// WireGuard on Linux: the kernel's, or a wireguard-go that outlives us; taken over when it lives, made when it does not.
import { carried as carriedHere, type CarriedWireguardGo } from "higgs:carried-wireguard-go";
import { SerialQueue, sleep } from "../../base/async.ts";
import { errorText } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import type { Exec } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";
import type { Journal } from "../journal.ts";
import { LIBEXEC_DIR } from "./carried.ts";
import { parseNetDev } from "./counters.ts";
import {
  type Implementation,
  InterfaceTaken,
  ListenPortBusy,
  type WireGuardConfig,
  type WireGuardDevice,
  WireGuardFailed,
} from "./device.ts";
import { linuxWireGuardHost, type WireGuardHost } from "./host.ts";
import { type ImplementationKind, livingImplementation, makeInterface, type Makers } from "./implementations.ts";
import { applyLines, linkLines, type LinkState, readLink, readRoutes, routeLines } from "./link.ts";
import { readDump, runWg, showTransfers } from "./run-wg.ts";
import { dumpSettings, uapiSettings } from "./settings.ts";
import { parseUapiTransfers, parseWgTransfers } from "./transfers.ts";
import { wgPeers } from "./peers.ts";
import { changesFor } from "./wg.ts";

export interface LinuxWireGuardDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly identifiers: Pick<Identifiers, "interface" | "mark">;
  readonly log: Logger;
  /** Default /var/lib/higgs/libexec. */
  readonly libexecDir?: string;
  /** Only this one is used; without it the first of kernel, carried, path that works. */
  readonly only?: ImplementationKind;
  /** Default: what this executable carries. */
  readonly carried?: CarriedWireguardGo | null;
  readonly host?: WireGuardHost;
}

const ENTRY = { kind: "wireguard-device" } as const;
const MTU_LEAST = 1280; // below it the kernel takes IPv6 off the interface
/** wireguard-go learns from netlink that it is up, and binds its port then; that is a matter of milliseconds. */
const PORT_DEADLINE_MS = 3_000;
/** A wireguard-go that was just started, by whom ever, has made its interface before its socket answers. */
const ANSWER_DEADLINE_MS = 2_000;
const END_DEADLINE_MS = 3_000;
/** Interface and socket of a wireguard-go that was killed last until the last of its threads is gone. */
const DYING_MS = 500;
const POLL_MS = 10;

export function linuxWireGuard(deps: LinuxWireGuardDeps): WireGuardDevice {
  const { exec, journal, log } = deps;
  const name = deps.identifiers.interface;
  const host = deps.host ?? linuxWireGuardHost();
  const makers: Makers = {
    exec,
    host,
    log,
    interfaceName: name,
    libexecDir: deps.libexecDir ?? LIBEXEC_DIR,
    carried: deps.carried === undefined ? carriedHere : deps.carried,
    hasKernel: true,
    ...(deps.only === undefined ? {} : { only: deps.only }),
  };
  const queue = new SerialQueue();
  let current: Implementation | null = null;

  const adopt = async (link: LinkState, signal: AbortSignal): Promise<Implementation | null> => {
    if (link.kind === "tun") {
      const isGone = async (): Promise<boolean> => (await readLink(exec, name, signal)) === null;
      const isDecided = async (): Promise<boolean> => (await answers(exec, name, signal)) || (await isGone());
      await waitFor(isDecided, { timeoutMs: ANSWER_DEADLINE_MS, signal });
      if (await isGone()) return null; // its wireguard-go had just been killed
    }
    if (!(await isWireGuard(exec, { name, link, signal }))) throw interfaceTaken(name, link);
    const living = await livingImplementation(makers, link, signal);
    if (deps.only === undefined || deps.only === living.kind) return living;
    log.info(
      { interface: name, kind: living.kind, wanted: deps.only },
      "replacing the device by another implementation",
    );
    await removeDevice({ exec, host, log, name }, signal);
    return null;
  };

  const configure = async (config: WireGuardConfig, signal: AbortSignal): Promise<void> => {
    const link = await readLink(exec, name, signal);
    if (link === null) throw gone(name);
    const { mtu, addresses } = config;
    await applyLines(exec, linkLines(name, link, { mtu, addresses, hasIpv6: host.hasIpv6(name) }), signal);
    const now = await readDump(exec, name, signal);
    if (now.listenPort !== config.listenPort && !(await host.isPortFree(config.listenPort)))
      throw portBusy(config.listenPort);
    const wanted = { ...config, mark: deps.identifiers.mark };
    for (const change of changesFor(now, wanted, Date.now())) await runWg(exec, { name, change, signal });
    if (!link.isUp) await applyLines(exec, [`link set dev ${name} up`], signal);
    if (config.prefixes !== undefined) {
      const wanted = { prefixes: config.prefixes, hasIpv6: host.hasIpv6(name) };
      await applyLines(exec, routeLines(name, await readRoutes(exec, name, signal), wanted), signal);
    }
    const isBound = (): Promise<boolean> => Promise.resolve(host.isPortBound(config.listenPort));
    if (!(await waitFor(isBound, { timeoutMs: PORT_DEADLINE_MS, signal }))) throw portBusy(config.listenPort);
  };

  const verify = async (config: WireGuardConfig, signal: AbortSignal): Promise<readonly string[]> => {
    const link = await readLink(exec, name, signal);
    if (link === null) return [`The interface ${name} is missing.`];
    const { mtu, addresses, prefixes } = config;
    const hasIpv6 = host.hasIpv6(name);
    const lines = [...linkLines(name, link, { mtu, addresses, hasIpv6 })];
    if (!link.isUp) lines.push(`link set dev ${name} up`);
    else if (prefixes !== undefined) {
      lines.push(...routeLines(name, await readRoutes(exec, name, signal), { prefixes, hasIpv6 }));
    }
    const wanted = { ...config, peers: "as-they-are" as const, mark: deps.identifiers.mark };
    const dump = await readDump(exec, name, signal);
    const changes = changesFor(dump, wanted, Date.now()).map(({ args }) => `wg set ${name} ${args.join(" ")}`);
    return [...lines.map((line) => `ip ${line}`), ...changes].map((line) => `Wants: ${line}.`);
  };

  const apply = async (config: WireGuardConfig, signal: AbortSignal): Promise<void> => {
    if (config.mtu < MTU_LEAST)
      throw failed(`Cannot give "${name}" an MTU of ${config.mtu}: it is below ${MTU_LEAST}.`);
    const link = await readLink(exec, name, signal);
    const living = link === null ? null : await adopt(link, signal);
    await journal.add(ENTRY);
    const { listenPort, mtu, peers } = config;
    log.info(
      {
        interface: name,
        listenPort,
        mtu,
        peers: peers === "as-they-are" ? peers : peers.length,
        adopted: living !== null,
      },
      "applying the WireGuard device",
    );
    if (living !== null) {
      await configure(config, signal);
      current = living;
      return;
    }
    try {
      const made = await makeInterface(makers, signal);
      await configure(config, signal);
      current = made;
    } catch (thrown) {
      if (await undoHalfMade({ exec, host, log, name })) await journal.remove(ENTRY);
      throw thrown;
    }
    log.info({ interface: name, ...current }, "made the WireGuard device");
  };

  const peers = wgPeers(exec, () => Promise.resolve(name));

  return {
    apply: (config, signal) => queue.run(() => apply(config, signal)),
    setPeer: (peer, signal) => queue.run(() => peers.setPeer(peer, signal)),
    setEndpoint: (publicKey, endpoint, signal) => queue.run(() => peers.setEndpoint(publicKey, endpoint, signal)),
    removePeer: (publicKey, signal) => queue.run(() => peers.removePeer(publicKey, signal)),
    stats: (signal) => peers.stats(signal),
    async transfers(signal) {
      if (current !== null && current.kind !== "kernel") return parseUapiTransfers(await host.askSocket(name));
      return parseWgTransfers(await showTransfers(exec, name, signal));
    },
    async settings(signal) {
      if (current === null || parseNetDev(host.netDev(), name) === null) return null;
      if (current.kind !== "kernel") return uapiSettings(await host.askSocket(name));
      return dumpSettings(await readDump(exec, name, signal));
    },
    prefixes: (signal) => peers.prefixes(signal),
    verify: (config, signal) => queue.run(() => verify(config, signal)),
    counters: () => Promise.resolve(parseNetDev(host.netDev(), name)),
    implementation: () => current,
    reset: (signal) =>
      queue.run(async () => {
        await removeDevice({ exec, host, log, name }, signal);
        current = null;
        await journal.remove(ENTRY);
      }),
  };
}

interface DeviceAt {
  readonly exec: Exec;
  readonly host: WireGuardHost;
  readonly log: Logger;
  readonly name: string;
}

/** For the clean-up without memory: true when there was a device of ours. */
export function removeWireGuardDevice(
  deps: {
    readonly exec: Exec;
    readonly identifiers: Pick<Identifiers, "interface">;
    readonly log: Logger;
    readonly host?: WireGuardHost;
  },
  signal: AbortSignal,
): Promise<boolean> {
  const { exec, log } = deps;
  return removeDevice({ exec, log, host: deps.host ?? linuxWireGuardHost(), name: deps.identifiers.interface }, signal);
}

/** Deleting the interface ends a wireguard-go too: its file descriptor goes dead, and it takes its socket with it. */
async function removeDevice(at: DeviceAt, signal: AbortSignal): Promise<boolean> {
  const { exec, host, log, name } = at;
  const link = await readLink(exec, name, signal);
  const isGone = async (): Promise<boolean> => (await readLink(exec, name, signal)) === null;
  const isOurs = link !== null && (host.processOf(name) !== null || (await isWireGuard(exec, { name, link, signal })));
  if (link !== null && !isOurs) {
    const goesByItself = link.kind === "tun" && (await waitFor(isGone, { timeoutMs: DYING_MS, signal }));
    if (!goesByItself) {
      log.warn({ interface: name, kind: link.kind }, "an interface with our name is no WireGuard and stays");
      return false;
    }
  }
  if (isOurs) {
    log.info({ interface: name, kind: link.kind }, "removing the WireGuard device");
    await applyLines(exec, [`link del dev ${name}`], signal).catch(async (thrown: unknown) => {
      if (!(await isGone())) throw thrown; // it went by itself meanwhile
    });
  }
  const wasServed = isOurs || (link === null && host.processOf(name) !== null);
  if (wasServed) await endServing(at, signal);
  const isSilent = async (): Promise<boolean> => (await host.socketState(name)) !== "answers";
  await waitFor(isSilent, { timeoutMs: DYING_MS, signal });
  if ((await host.socketState(name)) === "stale") await host.removeSocket(name);
  return link !== null || wasServed;
}

/** Whoever serves an interface that is gone ends by itself; one that hangs would keep the name from the next. */
async function endServing({ exec, host, log, name }: DeviceAt, signal: AbortSignal): Promise<void> {
  const hasEnded = (): Promise<boolean> => Promise.resolve(host.processOf(name) === null);
  if (await waitFor(hasEnded, { timeoutMs: END_DEADLINE_MS, signal })) return;
  const hanging = host.processOf(name);
  if (hanging === null || (await readLink(exec, name, signal)) !== null) return;
  log.warn({ interface: name, pid: hanging.pid }, "killing a wireguard-go that hangs");
  host.killProcess(hanging);
  await waitFor(hasEnded, { timeoutMs: DYING_MS, signal });
}

/** What was made is taken away also when the caller's signal is what ended the making. False when something may be left. */
async function undoHalfMade(at: DeviceAt): Promise<boolean> {
  try {
    await removeDevice(at, AbortSignal.timeout(END_DEADLINE_MS * 2));
    return true;
  } catch (thrown) {
    at.log.warn({ interface: at.name, error: errorText(thrown) }, "cannot take away a half-made device");
    return false;
  }
}

async function isWireGuard(
  exec: Exec,
  at: { readonly name: string; readonly link: LinkState; readonly signal: AbortSignal },
): Promise<boolean> {
  if (at.link.kind === "wireguard") return true;
  return at.link.kind === "tun" && (await answers(exec, at.name, at.signal));
}

async function answers(exec: Exec, name: string, signal: AbortSignal): Promise<boolean> {
  return (await exec.run(["wg", "show", name, "listen-port"], { signal })).code === 0;
}

async function waitFor(
  condition: () => Promise<boolean>,
  options: { readonly timeoutMs: number; readonly signal: AbortSignal },
): Promise<boolean> {
  const until = performance.now() + options.timeoutMs;
  while (!(await condition())) {
    if (performance.now() >= until) return false;
    await sleep(POLL_MS, options.signal);
  }
  return true;
}

function interfaceTaken(name: string, link: LinkState): InterfaceTaken {
  return new InterfaceTaken(
    `Cannot make the tunnel "${name}": there is an interface of that name, which is no WireGuard of ours.`,
    {
      code: "interface-taken",
      remedy: `See who made it (ip -d link show ${name}), and remove it: sudo ip link del ${name}`,
      detail: { interface: name, kind: link.kind },
    },
  );
}

function portBusy(port: number): ListenPortBusy {
  return new ListenPortBusy(`Cannot listen on the UDP port ${port}: another program has it.`, {
    code: "port-busy",
    remedy: `See who has it (ss -ulnp sport = :${port}), or choose another with --port.`,
    detail: { port },
  });
}

function gone(name: string): WireGuardFailed {
  return failed(`Cannot set up "${name}": the interface went away meanwhile.`);
}

function failed(message: string): WireGuardFailed {
  return new WireGuardFailed(message, { code: "wireguard-failed" });
}
