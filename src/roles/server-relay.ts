// The server's UDP relay on this machine: at which addresses it is, and whether the kernel or the process does the work.
import { lookup } from "node:dns/promises";
import { join } from "node:path";
import { withDeadline } from "../base/async.ts";
import { errorText } from "../base/errors.ts";
import { type Cidr, cidrContains, familyOf, type HostPort, type IpAddress, parseIp } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import { systemExec } from "../net/exec.ts";
import { openJournal } from "../net/journal-file.ts";
import { readPrivileges } from "../net/privileges.ts";
import { prepareKernelRelay, type RelaySystemDeps, resetKernelRelay } from "../net/relay-system.ts";
import { linuxSysctl } from "../net/sysctl.ts";
import { KernelRelay } from "../server/udp-relay/kernel.ts";
import { type RelayPlace, type UdpRelay, udpRelay } from "../server/udp-relay/service.ts";
import type { InterfaceAddress } from "./server-addresses.ts";

export interface ServerRelayOptions {
  readonly names: readonly HostPort[];
  readonly interfaces: readonly InterfaceAddress[];
  readonly ports: { readonly first: number; readonly last: number };
  readonly stateDir: string;
  /** Whether what is relayed has to be known soon. */
  readonly hasQuota: boolean;
}

/** Answers come at once, or the name has none. */
const LOOKUP_MS = 3_000;
/** What a machine may get beyond its quota is what its line carries in this time. */
const QUOTA_TEND_MS = 2_000;
/** Shutting down must not hang on a tool. */
const RESET_MS = 5_000;
const LOOPBACK: readonly Cidr[] = ["127.0.0.0/8" as Cidr, "::1/128" as Cidr];

/** Null where this machine has no address of its own to relay at. Throws only the signal's reason. */
export async function openServerRelay(
  options: ServerRelayOptions,
  log: Logger,
  signal: AbortSignal,
): Promise<UdpRelay | null> {
  const places = relayPlaces(await addressesOf(options.names, signal), options.interfaces);
  if (places.length === 0) {
    log.warn({}, "no address to relay UDP at; sessions have the WebSocket relay");
    return null;
  }
  const system = await relaySystem(options.stateDir, log);
  const kernel = await kernelRelay(system, { places, ...options }, signal).catch(async (thrown: unknown) => {
    await undo(system);
    throw thrown;
  });
  const relay = udpRelay(
    { kernel, log },
    { places, ports: options.ports, ...(options.hasQuota ? { tendMs: QUOTA_TEND_MS } : {}) },
  );
  let isOver = false;
  return {
    get kernel() {
      return relay.kernel;
    },
    get sessions() {
      return relay.sessions;
    },
    get bytes() {
      return relay.bytes;
    },
    forwarded: relay.forwarded,
    stun: relay.stun,
    open: (session, keys, how) => relay.open(session, keys, how),
    count: () => relay.count(),
    withhold: (session, isWithheld) => relay.withhold(session, isWithheld),
    close: (session) => relay.close(session),
    async [Symbol.asyncDispose]() {
      if (isOver) return;
      isOver = true;
      await relay[Symbol.asyncDispose]();
      await kernel?.dispose();
      if (system.netAdmin) await undo(system);
    },
  };
}

/** For `higgs state clean`: what a server that is gone has left. */
export async function cleanServerRelay(stateDir: string, log: Logger, signal: AbortSignal): Promise<readonly string[]> {
  return resetKernelRelay(await relaySystem(stateDir, log), signal);
}

async function relaySystem(stateDir: string, log: Logger): Promise<RelaySystemDeps> {
  const journal = await openJournal({ path: join(stateDir, "journal.json"), role: "server", log });
  const { netAdmin } = await readPrivileges();
  return { exec: systemExec(), journal, sysctl: linuxSysctl({ journal, log }), netAdmin, log };
}

async function kernelRelay(
  system: RelaySystemDeps,
  options: { readonly places: readonly RelayPlace[]; readonly ports: ServerRelayOptions["ports"] },
  signal: AbortSignal,
): Promise<KernelRelay | null> {
  const { log } = system;
  const addresses = options.places.map((place) => place.local);
  // The kernel turns round what comes from outside; what stays on this machine takes another way through it.
  if (addresses.some((address) => LOOPBACK.some((prefix) => cidrContains(prefix, address)))) return null;
  const prepared = await prepareKernelRelay(system, { addresses, trialPort: options.ports.first }, signal);
  if ("reason" in prepared) {
    log.info({ ...prepared }, "relaying in this process, not in the kernel");
    // A gate that an earlier server left would stand before our sockets.
    if (system.netAdmin) await undo(system);
    return null;
  }
  log.info({ addresses, ports: options.ports }, "relaying in the kernel");
  return new KernelRelay({ ...prepared, log });
}

async function undo(system: RelaySystemDeps): Promise<void> {
  try {
    await resetKernelRelay(system, AbortSignal.timeout(RESET_MS));
  } catch (thrown) {
    system.log.warn({ error: errorText(thrown) }, "cannot take the kernel relay's tables away");
  }
}

/** One of each family, IPv4 first, since WireGuard takes less room in it. */
export function relayPlaces(
  publicAddresses: readonly IpAddress[],
  interfaces: readonly InterfaceAddress[],
): readonly RelayPlace[] {
  const own = interfaces.flatMap((entry) => (/^fe[89ab]/i.test(entry.address) ? [] : (parseIp(entry.address) ?? [])));
  const outside = interfaces.filter((entry) => !entry.internal).map((entry) => entry.address);
  return ([4, 6] as const).flatMap((family): RelayPlace[] => {
    const known = publicAddresses.filter((address) => familyOf(address) === family);
    const here = known.find((address) => own.includes(address));
    if (here !== undefined) return [{ local: here, public: here }];
    // Behind a NAT of the provider's that maps one address to one; IPv6 has no such thing.
    const inner = own.find((address) => familyOf(address) === 4 && outside.includes(address));
    const [first] = known;
    return family === 6 || inner === undefined || first === undefined ? [] : [{ local: inner, public: first }];
  });
}

async function addressesOf(names: readonly HostPort[], signal: AbortSignal): Promise<readonly IpAddress[]> {
  const found = await Promise.all(
    names.map(async ({ host }) => {
      const address = parseIp(host);
      if (address !== null) return [address];
      try {
        const work = () => lookup(host, { all: true });
        const answers = await withDeadline(`find "${host}"`, work, { timeoutMs: LOOKUP_MS, signal });
        return answers.flatMap((answer) => parseIp(answer.address) ?? []);
      } catch {
        signal.throwIfAborted();
        return []; // a name that this machine does not know is no place for the relay
      }
    }),
  );
  return found.flat();
}
