// The local verbs that a node and a client share: hello, ping, and the machines that they hold on to.
import { z } from "zod";
import { HiggsError } from "../base/errors.ts";
import { isMachineName } from "../base/hostname.ts";
import { type Endpoint, familyOf, formatEndpoint } from "../base/ip.ts";
import type { LocalVerbs } from "../net/local-api.ts";
import type { MachineSystem } from "../net/system.ts";
import type { Membership } from "../peer/membership.ts";
import type { KnownPeer } from "../peer/netmap.ts";
import type { Paths } from "../peer/paths.ts";
import type { TrustStore } from "../peer/trust-store.ts";
import { portMappingOf } from "./port-mapping-status.ts";
import { explain } from "./why.ts";

export class VerbError extends HiggsError {
  override readonly name = "VerbError";
}

export interface MachineVerbDeps {
  /** Null while a client is disconnected. */
  readonly membership: () => Membership | null;
  readonly os: MachineSystem;
  readonly trust: TrustStore;
  /** Resolves when packets to the peer have a way. */
  readonly reach: (peer: KnownPeer, signal: AbortSignal) => Promise<void>;
  /** The HTTP proxy before the server, as people name it. */
  readonly proxy: () => string | null;
  /** Null while a client is disconnected, and for a machine that stays on the relay. */
  readonly paths: () => Paths | null;
}

const named = z.object({ name: z.string().max(64) });

/** Throws VerbError `bad-request` for a body that is not of the verb's form. */
export function bodyOf<T>(schema: z.ZodType<T>, body: unknown): T {
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  throw new VerbError("Cannot understand the request: it is of another version of higgs.", {
    code: "bad-request",
    remedy: "Restart the running higgs after an update.",
  });
}

export function machineVerbs(deps: MachineVerbDeps): LocalVerbs {
  return {
    hello: () => ({ pid: process.pid }),
    ping: async (body, signal) => ping(deps, bodyOf(named, body).name, signal),
    why: async (body, signal) => why(deps, bodyOf(named, body).name, signal),
    netcheck: () => netcheck(deps),
    "trust-list": () => ({ machines: deps.trust.list() }),
  };
}

export function trustVerbs(deps: MachineVerbDeps): LocalVerbs {
  return {
    "trust-forget": async (body) => {
      const { name } = bodyOf(named, body);
      if (!isMachineName(name) || !(await deps.trust.forget(name))) throw unknownMachine(name);
      await deps.membership()?.rejudge();
      return {};
    },
  };
}

/** The peer of that name, once packets to it have a way. */
async function reached(deps: MachineVerbDeps, name: string, signal: AbortSignal): Promise<KnownPeer> {
  const membership = deps.membership();
  if (membership === null) throw notConnected("reach another machine");
  const peer = membership.map.named(name);
  if (peer === undefined) throw unknownMachine(name);
  await deps.reach(peer, signal);
  return peer;
}

function notConnected(what: string): VerbError {
  return new VerbError(`Cannot ${what}: this machine is not connected.`, {
    code: "not-connected",
    remedy: "sudo higgs client up",
  });
}

async function ping(deps: MachineVerbDeps, name: string, signal: AbortSignal) {
  const peer = await reached(deps, name, signal);
  const address = peer.machine.addresses.find((candidate) => familyOf(candidate) === 4) ?? peer.machine.addresses[0];
  if (address === undefined) throw unknownMachine(name);
  return { rttMs: await deps.os.ping(address, signal), path: deps.paths()?.view(peer.id)?.kind ?? "wss" };
}

async function why(deps: MachineVerbDeps, name: string, signal: AbortSignal) {
  const peer = await reached(deps, name, signal);
  const withheld = deps.membership()?.sessions.get(peer.id)?.withheld ?? null;
  const paths = deps.paths();
  const evidence = {
    peer: name,
    view: paths?.view(peer.id) ?? null,
    nat: paths?.nat ?? null,
    routerPort: paths?.routerPort ?? null,
    told: paths?.told(peer.id) ?? [],
    proxy: deps.proxy(),
    sharing: paths?.mechanism ?? null,
    withheld,
    at: performance.now(),
  };
  return { schema: "higgs.why/1", peer: name, ...explain(evidence) };
}

function netcheck(deps: MachineVerbDeps) {
  const membership = deps.membership();
  if (membership === null) throw notConnected("check the network");
  const paths = deps.paths();
  const nat = paths?.nat ?? null;
  return {
    schema: "higgs.netcheck/1",
    server: membership.trouble === null ? "reached" : membership.trouble.message,
    proxy: deps.proxy(),
    sharing: deps.paths()?.mechanism ?? null,
    udp: nat?.udp ?? null,
    ipv4: endpointOrNull(nat?.mapped4 ?? null),
    ipv6: endpointOrNull(nat?.mapped6 ?? null),
    nat: paths?.mapping ?? null,
    mappingVaries: nat?.varies ?? null,
    mappingLifeS: paths?.mappingLifeMs == null ? null : paths.mappingLifeMs / 1000,
    portMapping: portMappingOf(paths),
    servers: nat?.servers ?? [],
  };
}

function endpointOrNull(endpoint: Endpoint | null): string | null {
  return endpoint === null ? null : formatEndpoint(endpoint);
}

function unknownMachine(name: string): VerbError {
  return new VerbError(`Cannot find "${name}": no machine of that name is known here.`, {
    code: "unknown-machine",
    remedy: "higgs trust list",
  });
}
