// WireGuard on Windows: the tunnel service of WireGuard for Windows, which outlives us; taken over when it lives, made when it does not.
//
// Commands: wireguard-windows, docs/enterprise.md (/installtunnelservice FILE, /uninstalltunnelservice NAME, `wg`); learn.microsoft.com,
// windows-commands: sc-config. The service's name is WireGuardTunnel$NAME. Version 0.5 or newer is needed: the driver of
// before bound its sockets to the way out, and did not reach the bridge's address 127.0.0.1.
import { mkdir, unlink } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { SerialQueue, sleep } from "../../base/async.ts";
import { utf8 } from "../../base/bytes.ts";
import { errorText } from "../../base/errors.ts";
import { type Cidr, parseIp } from "../../base/ip.ts";
import type { Logger } from "../../base/log.ts";
import { type Exec, output } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";
import type { Journal } from "../journal.ts";
import { askScript } from "../powershell.ts";
import { routeArgv } from "../routes/windows.ts";
import { writeSecretFile } from "../secret-file.ts";
import { protectFolder } from "../windows-folder.ts";
import { readWindowsNetwork } from "../windows-network.ts";
import { type DeviceCounters, type WireGuardConfig, type WireGuardDevice, WireGuardFailed } from "./device.ts";
import { wgPeers } from "./peers.ts";
import { readDump, runWg, showTransfers } from "./run-wg.ts";
import { parseWgTransfers, type Transfers } from "./transfers.ts";
import { tunnelConf } from "./tunnel-conf.ts";
import { changesFor, type DeviceDump } from "./wg.ts";

export interface WindowsWireGuardDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly identifiers: Pick<Identifiers, "interface">;
  readonly log: Logger;
  /** The role's state folder: the configuration lies in it while the service reads it. */
  readonly stateDir: string;
}

const ENTRY = { kind: "windows-tunnel" } as const;
const MTU_LEAST = 1280;
/** A service that Windows starts takes seconds where the driver is loaded for the first time. */
const START_DEADLINE_MS = 30_000;
const SERVICE_TIMEOUT_MS = 60_000;
const POLL_MS = 200;
/** Each look starts `wg.exe`. */
const COUNTERS_MS = 1_000;
const TUNNEL_METRIC = 1;

const serviceState = z.object({
  state: z.enum([
    "Absent",
    "Stopped",
    "StartPending",
    "StopPending",
    "Running",
    "ContinuePending",
    "PausePending",
    "Paused",
  ]),
});

export function serviceName(interfaceName: string): string {
  return `WireGuardTunnel$${interfaceName}`;
}

export async function tunnelServiceState(exec: Exec, interfaceName: string, signal: AbortSignal): Promise<string> {
  const parameters = { name: serviceName(interfaceName) };
  return (await askScript(exec, "read-service", { schema: serviceState, parameters, signal })).state;
}

export function windowsWireGuard(deps: WindowsWireGuardDeps): WireGuardDevice {
  const { exec, journal, log } = deps;
  const name = deps.identifiers.interface;
  const queue = new SerialQueue();
  let isUp = false;
  let counted: { readonly at: number; readonly counters: DeviceCounters | null } | null = null;

  const dumpOrNull = async (signal: AbortSignal): Promise<DeviceDump | null> => {
    try {
      return await readDump(exec, name, signal);
    } catch (thrown) {
      if (thrown instanceof WireGuardFailed) return null; // there is no such tunnel
      throw thrown;
    }
  };

  /** Sentences; none where the tunnel that lives needs nothing but `wg set`. */
  const unlike = async (config: WireGuardConfig, dump: DeviceDump, signal: AbortSignal): Promise<readonly string[]> => {
    const { interfaces, addresses } = await readWindowsNetwork(exec, signal);
    const own = interfaces.filter(({ alias }) => alias === name);
    const index = own[0]?.index;
    const there = addresses.filter((one) => one.index === index).map(({ address }) => parseIp(address) ?? address);
    const hasIpv6 = own.some(({ family }) => family === "IPv6");
    const missing = config.addresses.filter((one) => (hasIpv6 || !one.includes(":")) && !there.includes(one));
    return [
      ...(dump.privateKey === config.privateKey ? [] : [`The tunnel ${name} has another key.`]),
      ...(dump.listenPort === config.listenPort ? [] : [`The tunnel ${name} listens on port ${dump.listenPort}.`]),
      ...missing.map((address) => `The tunnel ${name} lacks the address ${address}.`),
      ...own
        .filter(({ mtu }) => mtu !== config.mtu)
        .map(({ family, mtu }) => `The MTU of ${name} is ${mtu} for ${family}.`),
    ];
  };

  const install = async (config: WireGuardConfig, signal: AbortSignal): Promise<void> => {
    const confPath = await writeConf(deps, tunnelConf(config), signal);
    try {
      await output(exec, ["wireguard", "/installtunnelservice", confPath], { timeoutMs: SERVICE_TIMEOUT_MS, signal });
      await waitForTunnel(signal);
      // A boot would start it without its file: "demand" leaves that to higgs.
      await output(exec, ["sc", "config", serviceName(name), "start=", "demand"], { signal });
    } finally {
      await unlink(confPath).catch((thrown: unknown) =>
        log.warn({ path: confPath, error: errorText(thrown) }, "a file with the tunnel's key stays"),
      );
    }
  };

  const waitForTunnel = async (signal: AbortSignal): Promise<void> => {
    const until = performance.now() + START_DEADLINE_MS;
    for (;;) {
      const { code } = await exec.run(["wg", "show", name, "listen-port"], { signal });
      if (code === 0) return;
      const state = await tunnelServiceState(exec, name, signal);
      if (state === "Stopped" || state === "Absent")
        throw failed(`The tunnel service of "${name}" ended at once; see: wireguard /dumplog`);
      if (performance.now() > until)
        throw failed(`The tunnel service of "${name}" did not start within ${START_DEADLINE_MS / 1000} s.`);
      await sleep(POLL_MS, signal);
    }
  };

  const configurePeers = async (config: WireGuardConfig, signal: AbortSignal): Promise<void> => {
    const now = await readDump(exec, name, signal);
    for (const change of changesFor(now, { ...config, mark: 0 }, Date.now()))
      await runWg(exec, { name, change, signal });
    await addPrefixes(config.prefixes ?? [], signal);
  };

  const addPrefixes = async (prefixes: readonly Cidr[], signal: AbortSignal): Promise<void> => {
    if (prefixes.length === 0) return;
    for (const argv of await missingRoutes(prefixes, signal)) await output(exec, argv, { signal });
  };

  const missingRoutes = async (
    prefixes: readonly Cidr[],
    signal: AbortSignal,
  ): Promise<readonly (readonly [string, ...string[]])[]> => {
    const { interfaces, routes } = await readWindowsNetwork(exec, signal);
    return prefixes.flatMap((prefix) => {
      const family = prefix.includes(":") ? "IPv6" : "IPv4";
      const own = interfaces.find((one) => one.alias === name && one.family === family);
      if (own === undefined || routes.some((route) => route.index === own.index && route.prefix === prefix)) return [];
      return [routeArgv("add", { prefix, index: own.index, nextHop: null, metric: TUNNEL_METRIC })];
    });
  };

  const apply = async (config: WireGuardConfig, signal: AbortSignal): Promise<void> => {
    if (config.mtu < MTU_LEAST)
      throw failed(`Cannot give "${name}" an MTU of ${config.mtu}: it is below ${MTU_LEAST}.`);
    const living = await dumpOrNull(signal);
    const isAdopted = living !== null && (await unlike(config, living, signal)).length === 0;
    await journal.add(ENTRY);
    log.info(
      { interface: name, listenPort: config.listenPort, mtu: config.mtu, adopted: isAdopted },
      "applying the WireGuard tunnel",
    );
    if (isAdopted) {
      await configurePeers(config, signal);
    } else {
      await removeTunnelService(deps, signal);
      try {
        await install(config, signal);
        await configurePeers(config, signal);
      } catch (thrown) {
        if (await undoHalfMade(deps)) await journal.remove(ENTRY);
        throw thrown;
      }
    }
    isUp = true;
    counted = null;
  };

  const peers = wgPeers(exec, () => Promise.resolve(name));
  const transfers = async (signal: AbortSignal): Promise<Transfers> =>
    parseWgTransfers(await showTransfers(exec, name, signal));

  return {
    apply: (config, signal) => queue.run(() => apply(config, signal)),
    setPeer: (peer, signal) => queue.run(() => peers.setPeer(peer, signal)),
    setEndpoint: (publicKey, endpoint, signal) => queue.run(() => peers.setEndpoint(publicKey, endpoint, signal)),
    removePeer: (publicKey, signal) => queue.run(() => peers.removePeer(publicKey, signal)),
    stats: (signal) => peers.stats(signal),
    transfers,
    settings: () => Promise.resolve(null), // starting wg.exe twice a second would cost more than a prompt answer is worth
    prefixes: (signal) => peers.prefixes(signal),
    async counters() {
      if (counted !== null && performance.now() - counted.at < COUNTERS_MS) return counted.counters;
      const counters = await transfers(AbortSignal.timeout(SERVICE_TIMEOUT_MS)).then(countersOf, () => null);
      counted = { at: performance.now(), counters };
      return counters;
    },
    verify: (config, signal) =>
      queue.run(async () => {
        const dump = await dumpOrNull(signal);
        if (dump === null) return [`The interface ${name} is missing.`];
        const routes = (await missingRoutes(config.prefixes ?? [], signal)).map((argv) => `Wants: ${argv.join(" ")}.`);
        return [...(await unlike(config, dump, signal)), ...routes];
      }),
    implementation: () => (isUp ? { kind: "kernel" } : null),
    reset: (signal) =>
      queue.run(async () => {
        await removeTunnelService(deps, signal);
        isUp = false;
        counted = null;
        await journal.remove(ENTRY);
      }),
  };
}

/** `wg` counts bytes and no packets: what changes when a packet passes stands for both. */
function countersOf(transfers: Transfers): DeviceCounters {
  let [rxBytes, txBytes] = [0, 0];
  for (const peer of transfers.values()) {
    rxBytes += peer.rxBytes;
    txBytes += peer.txBytes;
  }
  return { rxBytes, txBytes, rxPackets: rxBytes, txPackets: txBytes };
}

/** Whoever made it, by its fixed name; harmless when there is none. True when there was one. */
export async function removeTunnelService(
  { exec, identifiers, log, stateDir }: Pick<WindowsWireGuardDeps, "exec" | "identifiers" | "log" | "stateDir">,
  signal: AbortSignal,
): Promise<boolean> {
  const name = identifiers.interface;
  await unlink(confPathOf(stateDir, name)).catch(() => undefined); // of a process that was killed while the service started
  if ((await tunnelServiceState(exec, name, signal)) === "Absent") return false;
  log.info({ interface: name }, "removing the WireGuard tunnel");
  await output(exec, ["wireguard", "/uninstalltunnelservice", name], { timeoutMs: SERVICE_TIMEOUT_MS, signal });
  const until = performance.now() + START_DEADLINE_MS;
  while ((await tunnelServiceState(exec, name, signal)) !== "Absent") {
    if (performance.now() > until) throw failed(`The tunnel service of "${name}" does not end.`);
    await sleep(POLL_MS, signal);
  }
  return true;
}

/** What was made is taken away also when the caller's signal is what ended the making. False when something may be left. */
async function undoHalfMade(deps: WindowsWireGuardDeps): Promise<boolean> {
  try {
    await removeTunnelService(deps, AbortSignal.timeout(SERVICE_TIMEOUT_MS));
    return true;
  } catch (thrown) {
    deps.log.warn({ error: errorText(thrown) }, "cannot take away a half-made tunnel");
    return false;
  }
}

function confPathOf(stateDir: string, name: string): string {
  return join(stateDir, "tunnel", `${name}.conf`);
}

/** In a folder that inherits nobody's rights, before there is a secret in it. */
async function writeConf(
  { exec, stateDir, identifiers }: WindowsWireGuardDeps,
  text: string,
  signal: AbortSignal,
): Promise<string> {
  const path = confPathOf(stateDir, identifiers.interface);
  const dir = join(stateDir, "tunnel");
  await mkdir(dir, { recursive: true, mode: 0o700 });
  await protectFolder(exec, dir, signal);
  await writeSecretFile(path, utf8(text));
  return path;
}

function failed(message: string): WireGuardFailed {
  return new WireGuardFailed(message, { code: "wireguard-failed" });
}
