// The exit of a node: holds firewall, forwarding and lease as the moment wants them, and says what is missing.
import { Debounce, repeat, SerialQueue, Stopped } from "../base/async.ts";
import { errorText, HiggsError } from "../base/errors.ts";
import { hostCidr, type IpAddress } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import type { Service } from "../base/service.ts";
import { type ExitFirewall, type ExitKept, type ExitOutlet, type ExitPolicy, LEASE_S } from "../net/firewall/exit.ts";
import type { Fence } from "../net/forwarding.ts";
import type { Links } from "../net/links.ts";
import type { ExitState } from "../proto/control.ts";
import { exitPolicy, hasIpv6 } from "./exit-plan.ts";

export interface ExitDeps {
  readonly firewall: ExitFirewall;
  readonly readLinks: (signal: AbortSignal) => Promise<Links>;
  /** Resolves with what is missing, as sentences. */
  readonly enableForwarding: (wanted: { uplinks: readonly string[]; ipv6: boolean }) => Promise<readonly string[]>;
  /** Puts back what an exit changed that did not end in peace; asked for where none is offered. */
  readonly restoreForwarding: () => Promise<readonly string[]>;
  readonly fence: (wanted: { ipv6: boolean }) => Promise<Fence>;
  /** Rules of others that would swallow what is forwarded, as sentences. */
  readonly foreignDrops: (signal: AbortSignal) => Promise<readonly string[]>;
  /** Routing rules of others that send what is forwarded elsewhere than by an uplink, as sentences. */
  readonly rulesBefore: (signal: AbortSignal) => Promise<readonly string[]>;
  /** Why names cannot be resolved, or null. */
  readonly probeDns: (signal: AbortSignal) => Promise<string | null>;
  readonly log: Logger;
}

export interface ExitOptions {
  readonly interface: string;
  readonly resolverPort: number;
  readonly addresses: readonly IpAddress[];
  /** False for `--no-exit`: isolation alone, and no lease. */
  readonly offered: boolean;
  readonly outlet: ExitOutlet;
  readonly onChange: (state: ExitState | null) => void;
}

export interface Exit extends Service {
  /** Null with `--no-exit`. */
  readonly state: ExitState | null;
  readonly links: Links | null;
  /** How the isolation is not as wanted, as sentences, also with `--no-exit`. */
  readonly breaches: readonly string[];
  /** Until the first call those of the loaded table may use the exit: a node whose server does not answer yet keeps its clients. */
  setClients(addresses: readonly IpAddress[]): void;
  /** All that are known, by whoever saw them. Until the first call what the loaded table denies stays denied. */
  setPublicAddresses(addresses: readonly IpAddress[]): void;
  /** What the owner lets out from now on: in one transaction, with no packet lost that it allows. */
  setOutlet(outlet: ExitOutlet): void;
  /** The machine's links changed; first of all: what the exit needs beside itself is there. Until then it closes nothing that was open. */
  poke(): void;
  /** Someone touched the firewall, maybe we: looks, and mends it where it is not as wanted. */
  rulesTouched(): void;
  /** The first whole pass is done: nothing passes that should not. Throws ExitError `not-isolated`. */
  readonly isolated: Promise<void>;
}

export class ExitError extends HiggsError {
  override readonly name = "ExitError";
}

const NOTHING_KEPT: ExitKept = { clients4: [], clients6: [], here: [] };
const RENEW_MS = (LEASE_S * 1000) / 3;
const SETTLE_MS = 50;

export function openExit(deps: ExitDeps, options: ExitOptions): Exit {
  const controller = new AbortController();
  const { signal } = controller;
  const queue = new SerialQueue();
  const isolated = Promise.withResolvers<void>();
  let clients: readonly IpAddress[] | null = null;
  let publicAddresses: readonly IpAddress[] | null = null;
  let outlet = options.outlet;
  let kept: ExitKept = NOTHING_KEPT;
  let breaches: readonly string[] = [];
  let isFirst = true;
  /** Until the parts that an exit needs are there, the lease of a process before this one neither ends nor begins. */
  let hasStarted = false;
  let lookWaits = false;
  let applied: ExitPolicy | null = null;
  let links: Links | null = null;
  /** Rules of others, as they were at the last pass. */
  let foreign: readonly string[] = [];
  let dnsTrouble: string | null = null;
  let state: ExitState | null = options.offered
    ? { ready: false, ipv6: false, missing: ["It is still starting."] }
    : null;

  function report(next: ExitState | null): void {
    const changed = JSON.stringify(next) !== JSON.stringify(state);
    state = next;
    if (!changed || next === null) return;
    if (next.ready) deps.log.info({ ipv6: next.ipv6 }, "exit offered");
    else deps.log.warn({ missing: next.missing }, "exit not offered");
    options.onChange(next);
  }

  async function applyPolicy(policy: ExitPolicy): Promise<void> {
    if (applied === null || ruleKey(applied) !== ruleKey(policy)) {
      await deps.firewall.apply(policy, signal);
    } else if (JSON.stringify(applied) !== JSON.stringify(policy)) {
      await deps.firewall.setClients(policy, signal);
    }
    applied = policy;
  }

  async function mend(policy: ExitPolicy): Promise<void> {
    breaches = await deps.firewall.verify(signal);
    if (breaches.length === 0) return;
    deps.log.warn({ differences: breaches }, "firewall was changed by others; putting it back");
    await deps.firewall.apply(policy, signal);
    breaches = await deps.firewall.verify(signal);
    if (breaches.length > 0) deps.log.error({ differences: breaches }, "firewall is not as wanted");
  }

  /** With `--no-exit`: an earlier process may have offered one, and left in the middle of it. */
  async function withdraw(): Promise<void> {
    for (const line of await deps.restoreForwarding()) deps.log.info({}, line);
  }

  async function pass(): Promise<void> {
    links = await deps.readLinks(signal);
    const { interface: name, resolverPort, addresses, offered } = options;
    const ipv6 = hasIpv6(links);
    if (!offered && isFirst) await withdraw();
    const fence = await deps.fence({ ipv6: offered && ipv6 });
    if (isFirst) kept = (await deps.firewall.loaded(signal)) ?? NOTHING_KEPT;
    const policy = exitPolicy({
      interface: name,
      resolverPort,
      addresses,
      offered,
      links,
      fence,
      outlet,
      clients: clients ?? [...kept.clients4, ...kept.clients6],
      alsoHere: publicAddresses?.map(hostCidr) ?? kept.here,
    });
    await applyPolicy(policy);
    await mend(policy);
    if (!offered && isFirst) await deps.firewall.closeLease(signal);
    isFirst = false;
    if (breaches.length === 0) isolated.resolve();
    else isolated.reject(notIsolated(breaches));
    if (!offered) return;
    const missing = [...breaches, ...(await wayOut(links, policy, ipv6))];
    if (missing.length === 0) await deps.firewall.renewLease(signal);
    else if (hasStarted) await deps.firewall.closeLease(signal);
    report({ ready: missing.length === 0, ipv6, missing: missing.slice(0, 8).map((text) => text.slice(0, 300)) });
  }

  async function look(): Promise<void> {
    lookWaits = false;
    const isOurs = applied !== null && (await deps.firewall.verify(signal)).length === 0;
    const theirs = options.offered ? await deps.foreignDrops(signal) : foreign;
    if (!isOurs || String(theirs) !== String(foreign)) await pass();
  }

  async function wayOut(now: Links, policy: ExitPolicy, ipv6: boolean): Promise<string[]> {
    if (!now.uplinks.some((uplink) => uplink.family === 4)) return ["This machine has no IPv4 default route."];
    const missing = [...(await deps.enableForwarding({ uplinks: policy.uplinks, ipv6 }))];
    foreign = await deps.foreignDrops(signal);
    missing.push(...foreign, ...(await deps.rulesBefore(signal)));
    // A resolver that answered keeps its word for a while; one that did not is asked again at every pass.
    if (dnsTrouble !== null || state?.ready !== true) dnsTrouble = await deps.probeDns(signal);
    if (dnsTrouble !== null) missing.push(`Names cannot be resolved: ${dnsTrouble}`);
    return missing;
  }

  async function run(work: () => Promise<void>): Promise<void> {
    if (signal.aborted) return; // whoever pokes after the end must not bring the firewall back
    try {
      await queue.run(work);
    } catch (thrown) {
      if (signal.aborted) return;
      applied = null; // somebody may have taken the table away: the next pass loads all of it
      breaches = [errorText(thrown)];
      report(options.offered ? { ready: false, ipv6: false, missing: [errorText(thrown).slice(0, 300)] } : null);
      deps.log.error({ reason: errorText(thrown) }, "exit not as wanted");
      isolated.reject(thrown);
    }
  }

  isolated.promise.catch(() => undefined); // whoever awaits it has the failure
  const settle = new Debounce(() => void run(pass), SETTLE_MS);
  const loop = repeat(() => run(pass), { everyMs: RENEW_MS, signal, onError: () => undefined }); // run() has told of every failure
  const first = run(pass);

  return {
    get state() {
      return state;
    },
    get links() {
      return links;
    },
    get breaches() {
      return breaches;
    },
    isolated: isolated.promise,
    setClients(next) {
      if (clients !== null && String(next) === String(clients)) return;
      clients = next;
      settle.poke();
    },
    setPublicAddresses(next) {
      if (publicAddresses !== null && String(next) === String(publicAddresses)) return;
      publicAddresses = next;
      settle.poke();
    },
    setOutlet(next) {
      if (JSON.stringify(next) === JSON.stringify(outlet)) return;
      outlet = next;
      settle.poke();
    },
    poke() {
      hasStarted = true;
      settle.poke();
    },
    rulesTouched() {
      if (lookWaits) return;
      lookWaits = true;
      void run(look);
    },
    async [Symbol.asyncDispose]() {
      controller.abort(new Stopped());
      settle.cancel();
      await Promise.all([first, loop]);
      await queue.idle();
    },
  };
}

function notIsolated(differences: readonly string[]): ExitError {
  return new ExitError(`Cannot isolate the tunnel: ${differences.join(" ")}`, {
    code: "not-isolated",
    remedy: "See who else changes the nft rules of this machine: sudo nft monitor",
    detail: { differences },
  });
}

/** What makes a whole new ruleset necessary: everything but the clients. */
function ruleKey(policy: ExitPolicy): string {
  return JSON.stringify({ ...policy, clients4: [], clients6: [] });
}
