// The exit of a node: holds firewall, forwarding and lease as the moment wants them, and says what is missing.
import { Debounce, repeat, SerialQueue, Stopped } from "../base/async.ts";
import { errorText } from "../base/errors.ts";
import type { IpAddress } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import type { Service } from "../base/service.ts";
import { type ExitFirewall, type ExitPolicy, LEASE_S } from "../net/firewall/exit.ts";
import type { Links } from "../net/links.ts";
import type { ExitState } from "../proto/control.ts";
import { exitPolicy, hasIpv6 } from "./exit-plan.ts";

export interface ExitDeps {
  readonly firewall: ExitFirewall;
  readonly readLinks: (signal: AbortSignal) => Promise<Links>;
  /** Resolves with what is missing, as sentences. */
  readonly enableForwarding: (wanted: { uplinks: readonly string[]; ipv6: boolean }) => Promise<readonly string[]>;
  /** Rules of others that would swallow what is forwarded, as sentences. */
  readonly foreignDrops: (signal: AbortSignal) => Promise<readonly string[]>;
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
  readonly onChange: (state: ExitState | null) => void;
}

export interface Exit extends Service {
  /** Null with `--no-exit`. */
  readonly state: ExitState | null;
  readonly links: Links | null;
  setClients(addresses: readonly IpAddress[]): void;
  setPublicAddress(address: IpAddress | null): void;
  /** The machine's links changed, or someone touched the firewall. */
  poke(): void;
  /** The first whole pass is done: nothing passes that should not. */
  readonly isolated: Promise<void>;
}

const RENEW_MS = (LEASE_S * 1000) / 3;
const SETTLE_MS = 50;

export function openExit(deps: ExitDeps, options: ExitOptions): Exit {
  const controller = new AbortController();
  const { signal } = controller;
  const queue = new SerialQueue();
  const isolated = Promise.withResolvers<void>();
  let clients: readonly IpAddress[] = [];
  let publicAddress: IpAddress | null = null;
  let applied: ExitPolicy | null = null;
  let links: Links | null = null;
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

  async function mended(policy: ExitPolicy): Promise<readonly string[]> {
    const differences = await deps.firewall.verify(signal);
    if (differences.length === 0) return [];
    deps.log.warn({ differences }, "firewall was changed by others; putting it back");
    await deps.firewall.apply(policy, signal);
    return await deps.firewall.verify(signal);
  }

  async function pass(): Promise<void> {
    links = await deps.readLinks(signal);
    const { interface: name, resolverPort, addresses, offered } = options;
    const policy = exitPolicy({ interface: name, resolverPort, addresses, offered, clients, links, publicAddress });
    await applyPolicy(policy);
    const missing = [...(await mended(policy))];
    isolated.resolve();
    if (!offered) return;
    const ipv6 = hasIpv6(links);
    missing.push(...(await wayOut(links, policy, ipv6)));
    if (missing.length === 0) await deps.firewall.renewLease(signal);
    else await deps.firewall.closeLease(signal);
    report({ ready: missing.length === 0, ipv6, missing: missing.slice(0, 8).map((text) => text.slice(0, 300)) });
  }

  async function wayOut(now: Links, policy: ExitPolicy, ipv6: boolean): Promise<string[]> {
    if (!now.uplinks.some((uplink) => uplink.family === 4)) return ["This machine has no IPv4 default route."];
    const missing = [...(await deps.enableForwarding({ uplinks: policy.uplinks, ipv6 }))];
    missing.push(...(await deps.foreignDrops(signal)));
    // A resolver that answered keeps its word for a while; one that did not is asked again at every pass.
    if (dnsTrouble !== null || state?.ready !== true) dnsTrouble = await deps.probeDns(signal);
    if (dnsTrouble !== null) missing.push(`Names cannot be resolved: ${dnsTrouble}`);
    return missing;
  }

  async function run(): Promise<void> {
    if (signal.aborted) return; // whoever pokes after the end must not bring the firewall back
    try {
      await queue.run(pass);
    } catch (thrown) {
      if (signal.aborted) return;
      report(options.offered ? { ready: false, ipv6: false, missing: [errorText(thrown).slice(0, 300)] } : null);
      deps.log.error({ reason: errorText(thrown) }, "exit not as wanted");
      isolated.reject(thrown);
    }
  }

  isolated.promise.catch(() => undefined); // whoever awaits it has the failure
  const settle = new Debounce(() => void run(), SETTLE_MS);
  const loop = repeat(run, { everyMs: RENEW_MS, signal, onError: () => undefined }); // run() has told of every failure
  const first = run();

  return {
    get state() {
      return state;
    },
    get links() {
      return links;
    },
    isolated: isolated.promise,
    setClients(next) {
      if (String(next) === String(clients)) return;
      clients = next;
      settle.poke();
    },
    setPublicAddress(next) {
      if (next === publicAddress) return;
      publicAddress = next;
      settle.poke();
    },
    poke: () => settle.poke(),
    async [Symbol.asyncDispose]() {
      controller.abort(new Stopped());
      settle.cancel();
      await Promise.all([first, loop]);
      await queue.idle();
    },
  };
}

/** What makes a whole new ruleset necessary: everything but the clients. */
function ruleKey(policy: ExitPolicy): string {
  return JSON.stringify({ ...policy, clients4: [], clients6: [] });
}
