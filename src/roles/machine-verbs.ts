// The local verbs that a node and a client share: hello, ping, and the machines that they hold on to.
import { z } from "zod";
import { HiggsError } from "../base/errors.ts";
import { isMachineName } from "../base/hostname.ts";
import { familyOf } from "../base/ip.ts";
import type { LocalVerbs } from "../net/local-api.ts";
import type { MachineSystem } from "../net/os.ts";
import type { Membership } from "../peer/membership.ts";
import type { KnownPeer } from "../peer/netmap.ts";
import type { PathView } from "../peer/path-agent.ts";
import type { TrustStore } from "../peer/trust-store.ts";
import type { MachineId } from "../proto/keys.ts";

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
  /** Null while there is no session with the peer, or only the relay. */
  readonly pathTo: (peer: MachineId) => PathView | null;
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

async function ping(deps: MachineVerbDeps, name: string, signal: AbortSignal) {
  const membership = deps.membership();
  if (membership === null) {
    throw new VerbError("Cannot ping: this machine is not connected.", {
      code: "not-connected",
      remedy: "higgs client up",
    });
  }
  const peer = membership.map.named(name);
  if (peer === undefined) throw unknownMachine(name);
  await deps.reach(peer, signal);
  const address = peer.machine.addresses.find((candidate) => familyOf(candidate) === 4) ?? peer.machine.addresses[0];
  if (address === undefined) throw unknownMachine(name);
  return { rttMs: await deps.os.ping(address, signal), path: deps.pathTo(peer.id)?.kind ?? "wss" };
}

function unknownMachine(name: string): VerbError {
  return new VerbError(`Cannot find "${name}": no machine of that name is known here.`, {
    code: "unknown-machine",
    remedy: "higgs trust list",
  });
}
