// WireGuard on macOS: a wireguard-go that outlives us, at whatever utun macOS gives it; taken over when it lives.
import { carried as carriedHere, type CarriedWireguardGo } from "higgs:carried-wireguard-go";
import { SerialQueue, sleep } from "../../base/async.ts";
import { errorText, HiggsError } from "../../base/errors.ts";
import { familyOf, hostCidr, type IpAddress } from "../../base/ip.ts";
import type { Logger } from "../../base/log.ts";
import { type Exec, output } from "../exec.ts";
import { parseIfconfig, type ShownInterface } from "../ifconfig.ts";
import type { Journal } from "../journal.ts";
import { LIBEXEC_DIR, unpackedCarried } from "./carried.ts";
import {
  type DeviceCounters,
  type Implementation,
  InterfaceTaken,
  ListenPortBusy,
  type WireGuardConfig,
  type WireGuardDevice,
  WireGuardFailed,
  WireGuardUnavailable,
} from "./device.ts";
import { isTunnelName, macWireGuardHost, type MacWireGuardHost, tunnelName } from "./host-macos.ts";
import { wgPeers } from "./peers.ts";
import { readDump, runWg } from "./run-wg.ts";
import { uapiSettings } from "./settings.ts";
import { parseUapiTransfers } from "./transfers.ts";
import { changesFor } from "./wg.ts";

export interface MacWireGuardDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly log: Logger;
  readonly libexecDir?: string;
  /** Only this one is used; without it what this executable carries, then one on PATH. */
  readonly only?: "kernel" | "carried" | "path";
  readonly carried?: CarriedWireguardGo | null;
  readonly host?: MacWireGuardHost;
}

const ENTRY = { kind: "wireguard-device" } as const;
const MTU_LEAST = 1280; // below it there is no IPv6
/** A wireguard-go that has lost its socket ends within moments, and its tunnel with it. */
const END_DEADLINE_MS = 3_000;
const POLL_MS = 20;
/** WireGuard's private key reaches `wg` by standard input, which macOS has under this name. */
const KEY_PATH = "/dev/stdin";

export function macWireGuard(deps: MacWireGuardDeps): WireGuardDevice {
  const { exec, journal, log } = deps;
  const host = deps.host ?? macWireGuardHost();
  const queue = new SerialQueue();
  let current: Implementation | null = null;

  const living = async (): Promise<string> => {
    const name = await tunnelName(host);
    if (name === null) throw failed("Cannot use the tunnel: it is not there.");
    return name;
  };
  const peers = wgPeers(exec, living);

  const configure = async (name: string, config: WireGuardConfig, signal: AbortSignal): Promise<void> => {
    for (const argv of interfaceCommands(await readInterface(exec, name, signal), config)) {
      await output(exec, argv, { signal });
    }
    const now = await readDump(exec, name, signal);
    if (now.listenPort !== config.listenPort && !(await host.isPortFree(config.listenPort))) {
      throw portBusy(config.listenPort);
    }
    // No mark: there are no rules here that could ask for one.
    const wanted = { ...config, mark: now.mark, keyPath: KEY_PATH };
    for (const change of changesFor(now, wanted, Date.now())) await runWg(exec, { name, change, signal });
    if ((await readDump(exec, name, signal)).listenPort !== config.listenPort) throw portBusy(config.listenPort);
  };

  const apply = async (config: WireGuardConfig, signal: AbortSignal): Promise<void> => {
    if (config.mtu < MTU_LEAST)
      throw failed(`Cannot give the tunnel an MTU of ${config.mtu}: it is below ${MTU_LEAST}.`);
    const adopted = await tunnelName(host);
    await journal.add(ENTRY);
    log.info({ tunnel: adopted, listenPort: config.listenPort, mtu: config.mtu }, "applying the WireGuard device");
    if (adopted !== null) {
      await configure(adopted, config, signal);
      current ??= { kind: "path", path: "unknown", version: "unknown" };
      return;
    }
    try {
      const made = await make(deps, host, signal);
      await configure(await living(), config, signal);
      current = made;
    } catch (thrown) {
      if (await undoHalfMade({ ...deps, host })) await journal.remove(ENTRY);
      throw thrown;
    }
  };

  const verify = async (config: WireGuardConfig, signal: AbortSignal): Promise<readonly string[]> => {
    const name = await tunnelName(host);
    if (name === null) return ["The tunnel is missing."];
    const commands = interfaceCommands(await readInterface(exec, name, signal), config).map((argv) => argv.join(" "));
    const dump = await readDump(exec, name, signal);
    const wanted = { ...config, peers: "as-they-are" as const, mark: dump.mark, keyPath: KEY_PATH };
    const changes = changesFor(dump, wanted, Date.now()).map(({ args }) => `wg set ${name} ${args.join(" ")}`);
    return [...commands, ...changes].map((line) => `Wants: ${line}.`);
  };

  return {
    apply: (config, signal) => queue.run(() => apply(config, signal)),
    setPeer: (peer, signal) => queue.run(() => peers.setPeer(peer, signal)),
    setEndpoint: (publicKey, endpoint, signal) => queue.run(() => peers.setEndpoint(publicKey, endpoint, signal)),
    removePeer: (publicKey, signal) => queue.run(() => peers.removePeer(publicKey, signal)),
    stats: (signal) => peers.stats(signal),
    verify: (config, signal) => queue.run(() => verify(config, signal)),
    async counters() {
      const name = await tunnelName(host);
      if (name === null) return null;
      // netstat(1), -I: one interface, -b: bytes too, -n: numbers.
      return parseCounters((await exec.run(["netstat", "-I", name, "-bn"])).stdout, name);
    },
    transfers: async () => parseUapiTransfers(await host.askSocket(await living())),
    settings: async () => (current === null ? null : uapiSettings(await host.askSocket(await living()))),
    prefixes: (signal) => peers.prefixes(signal),
    implementation: () => current,
    reset: (signal) =>
      queue.run(async () => {
        await removeTunnel({ ...deps, host }, signal);
        current = null;
        await journal.remove(ENTRY);
      }),
  };
}

/** Pure: what differs, in an order that never leaves the interface without an address it keeps. */
export function interfaceCommands(
  now: ShownInterface,
  wanted: { readonly mtu: number; readonly addresses: readonly IpAddress[] },
): readonly (readonly [string, ...string[]])[] {
  const { name } = now;
  const there = now.addresses.filter(({ isLinkLocal }) => !isLinkLocal).map(({ address }) => address);
  const isWanted = (address: IpAddress): boolean => wanted.addresses.includes(address);
  return [
    // ifconfig(8): mtu; "alias" adds an address, with that of the other end for a line between two; "-alias" takes it away; up.
    ...(now.mtu === wanted.mtu ? [] : [["ifconfig", name, "mtu", String(wanted.mtu)] as const]),
    ...wanted.addresses.filter((address) => !there.includes(address)).map((address) => addressCommand(name, address)),
    ...there
      .filter((address) => !isWanted(address))
      .map((address) => ["ifconfig", name, familyOf(address) === 4 ? "inet" : "inet6", address, "-alias"] as const),
    ...(now.isUp ? [] : [["ifconfig", name, "up"] as const]),
  ];
}

function addressCommand(name: string, address: IpAddress): readonly [string, ...string[]] {
  if (familyOf(address) === 4) return ["ifconfig", name, "inet", hostCidr(address), address, "alias"];
  return ["ifconfig", name, "inet6", hostCidr(address), "alias"];
}

/**
 * "Name Mtu Network Address Ipkts Ierrs Ibytes Opkts Oerrs Obytes Coll", first for the link itself, whose address a tunnel has not.
 * Null for what is no such line.
 */
export function parseCounters(text: string, name: string): DeviceCounters | null {
  for (const line of text.split("\n")) {
    const words = line.trim().split(/\s+/);
    if (words[0] !== name || words[2]?.startsWith("<Link") !== true) continue;
    const [rxPackets, , rxBytes, txPackets, , txBytes] = words.slice(-7).map(Number);
    if (rxPackets === undefined || rxBytes === undefined || txPackets === undefined || txBytes === undefined)
      return null;
    return { rxBytes, txBytes, rxPackets, txPackets };
  }
  return null;
}

type Removing = Pick<MacWireGuardDeps, "exec" | "log"> & { readonly host: MacWireGuardHost };

/** Takes the tunnel away, whoever made it, by the file with its name; harmless twice. True when there was one. */
export async function removeTunnel({ exec, log, host }: Removing, signal: AbortSignal): Promise<boolean> {
  const name = await host.readName();
  if (name === null) return false;
  const state = isTunnelName(name) ? await host.socketState(name) : "absent";
  if (state !== "absent") {
    log.info({ tunnel: name }, "removing the WireGuard device");
    await host.removeSocket(name);
    if (!(await isGone(exec, name, signal))) {
      throw failed(`Cannot remove the tunnel "${name}": the wireguard-go that serves it does not end.`);
    }
  }
  await host.removeName();
  return state === "answers";
}

async function isGone(exec: Exec, name: string, signal: AbortSignal): Promise<boolean> {
  const until = performance.now() + END_DEADLINE_MS;
  // ifconfig(8): ends with 1 for an interface that does not exist.
  while ((await exec.run(["ifconfig", name], { signal })).code === 0) {
    if (performance.now() >= until) return false;
    await sleep(POLL_MS, signal);
  }
  return true;
}

/** What was made is taken away also when the caller's signal is what ended the making. False when something may be left. */
async function undoHalfMade(at: Removing): Promise<boolean> {
  try {
    await removeTunnel(at, AbortSignal.timeout(END_DEADLINE_MS * 2));
    return true;
  } catch (thrown) {
    at.log.warn({ error: errorText(thrown) }, "cannot take away a half-made device");
    return false;
  }
}

async function make(deps: MacWireGuardDeps, host: MacWireGuardHost, signal: AbortSignal): Promise<Implementation> {
  const found = await findImplementation(deps, host, signal);
  await host.removeName();
  signal.throwIfAborted();
  const { code, said } = await host.launch(found.path);
  if (code !== 0) throw failed(`Cannot start "${found.path}": ${said.trim().split("\n").at(-1) ?? ""}.`);
  const name = await host.readName();
  if (name === null || !isTunnelName(name))
    throw failed(`Cannot use "${found.path}": it did not say which tunnel it has.`);
  if ((await host.socketState(name)) !== "answers")
    throw failed(`Cannot use "${found.path}": its control socket answers nobody.`);
  return found;
}

/** macOS has no WireGuard in its kernel. */
async function findImplementation(
  deps: MacWireGuardDeps,
  host: MacWireGuardHost,
  signal: AbortSignal,
): Promise<Extract<Implementation, { path: string }>> {
  const { only, log } = deps;
  const carried = deps.carried === undefined ? carriedHere : deps.carried;
  const reasons: string[] = only === "kernel" ? ["macOS' kernel has no WireGuard"] : [];
  if (only === undefined || only === "carried") {
    try {
      if (carried !== null) {
        const path = await unpackedCarried(carried, deps.libexecDir ?? LIBEXEC_DIR);
        return { kind: "carried", path, version: carried.version };
      }
      reasons.push("this executable carries no wireguard-go");
    } catch (thrown) {
      if (!(thrown instanceof HiggsError)) throw thrown;
      log.warn({ reason: thrown.message }, "the carried wireguard-go cannot be used");
      reasons.push(`the carried one is refused (${thrown.message})`);
    }
  }
  if (only === undefined || only === "path") {
    const path = host.wireguardGoOnPath();
    if (path !== null) {
      const { stdout } = await deps.exec.run([path, "--version"], { signal });
      return { kind: "path", path, version: /^wireguard-go v?(\S+)/.exec(stdout)?.[1] ?? "unknown" };
    }
    reasons.push("there is no wireguard-go on PATH");
  }
  throw new WireGuardUnavailable(`Cannot make a WireGuard tunnel: ${reasons.join("; ")}.`, {
    code: "wireguard-unavailable",
    remedy: "brew install wireguard-go, or build higgs where Go is at hand",
  });
}

async function readInterface(exec: Exec, name: string, signal: AbortSignal): Promise<ShownInterface> {
  const shown = parseIfconfig(await output(exec, ["ifconfig", name], { signal })).find((one) => one.name === name);
  if (shown === undefined)
    throw new InterfaceTaken(`Cannot set up "${name}": ifconfig does not show it.`, { code: "interface-gone" });
  return shown;
}

function portBusy(port: number): ListenPortBusy {
  return new ListenPortBusy(`Cannot listen on the UDP port ${port}: another program has it.`, {
    code: "port-busy",
    remedy: `See who has it (lsof -nP -iUDP:${port}), or choose another with --port.`,
    detail: { port },
  });
}

function failed(message: string): WireGuardFailed {
  return new WireGuardFailed(message, { code: "wireguard-failed" });
}
