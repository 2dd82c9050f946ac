// Keeps one UDP port mapped at one router: finds a protocol, renews, starts anew when the mapping is lost, and takes it back at the end.
import { Stopped } from "../../base/async.ts";
import { errorText } from "../../base/errors.ts";
import { formatEndpoint } from "../../base/ip.ts";
import type { Logger } from "../../base/log.ts";
import { type GatewaySocket, openGatewaySocket } from "./gateway-socket.ts";
import type { Granted, MappingClient } from "./mapping-client.ts";
import type { PortMapper, PortMapperOptions, PortMapping } from "./port-mapping.ts";
import { probeNatPmp, probePcp } from "./udp-clients.ts";
import { probeUpnp } from "./upnp-client.ts";

/** A router answers at once or speaks no such protocol: nobody waits longer for the first word. */
const PROBE_MS: readonly number[] = [0, 100, 250];
/** Later, when nobody waits: some routers take their time to answer a search. */
const PATIENT_MS: readonly number[] = [0, 500, 1500];
/** After a round without a mapping; the last goes on. */
const ROUNDS_MS: readonly number[] = [5000, 60_000, 600_000];
/** A router that is started anew has forgotten the mapping: it is asked this often, however long the lease. */
const TRUST_MS = 600_000;
/** A renewal without an answer is tried again after these, and then the mapping is given up. */
const RETRY_MS: readonly number[] = [2000, 10_000];
/** The program waits for it when it ends. */
const UNMAP_TIMEOUT_MS = 1500;
const NONCE_BYTES = 12;

/** Resolves at once; the router is asked meanwhile. Nothing that a router says or does ends it. */
export function portMapper(deps: { readonly log: Logger }, options: PortMapperOptions): PortMapper {
  const mapper = new Mapper(deps.log, options);
  return mapper;
}

class Mapper implements PortMapper {
  readonly #log: Logger;
  readonly #options: PortMapperOptions;
  readonly #nonce: Uint8Array;
  readonly #controller = new AbortController();
  readonly #loop: Promise<void>;
  #current: PortMapping | null = null;
  #wake: () => void = () => undefined;
  #isPoked = false;
  #isAsked = false;

  constructor(log: Logger, options: PortMapperOptions) {
    this.#log = log;
    this.#options = options;
    this.#nonce = options.nonce ?? crypto.getRandomValues(new Uint8Array(NONCE_BYTES));
    this.#loop = this.#run(this.#controller.signal);
  }

  get current(): PortMapping | null {
    return this.#current;
  }

  get isAsked(): boolean {
    return this.#isAsked;
  }

  refresh(): void {
    this.#isPoked = true;
    this.#wake();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#controller.abort(new Stopped("The port mapper was disposed."));
    this.#wake();
    await this.#loop;
    this.#current = null;
  }

  async #run(signal: AbortSignal): Promise<void> {
    for (let round = 0; !signal.aborted; round++) {
      try {
        await using socket = await openGatewaySocket(this.#options);
        const found = await this.#obtain(socket, round === 0 ? PROBE_MS : PATIENT_MS, signal);
        if (found !== null) {
          await this.#hold(found.client, found.granted, signal);
          round = -1; // there may be another router by now
          continue;
        }
        this.#tellNone(round);
      } catch (thrown) {
        if (!signal.aborted) this.#log.debug({ error: errorText(thrown) }, "no port mapping");
      }
      this.#isAsked = true;
      await this.#pause(ROUNDS_MS[Math.min(round, ROUNDS_MS.length - 1)] ?? 0, signal);
    }
  }

  /** Once aloud: whoever runs a node may want to switch it on at the router. */
  #tellNone(round: number): void {
    const { gateway } = this.#options;
    if (this.#isAsked) this.#log.debug({ round, gateway }, "the router maps no port");
    else this.#log.info({ gateway }, "the router maps no port");
  }

  /** All are asked at once; the first that maps is used, in the order of preference. */
  async #obtain(socket: GatewaySocket, scheduleMs: readonly number[], signal: AbortSignal) {
    const { gateway, localAddress, internalPort, allowTcp } = this.#options;
    const deps = { socket, gateway, localAddress, internalPort, allowTcp: allowTcp ?? (() => Promise.resolve()) };
    const probes = [
      probePcp(deps, { nonce: this.#nonce, scheduleMs }, signal),
      probeNatPmp(deps, { scheduleMs }, signal),
      probeUpnp(deps, { scheduleMs }, signal),
    ];
    void Promise.allSettled(probes); // one that is not looked at any more may still fail, when the mapper ends
    for (const probe of probes) {
      const client = await probe;
      const granted = client === null ? null : await this.#map(client, null, signal);
      if (client !== null && granted !== null) return { client, granted };
    }
    return null;
  }

  async #map(client: MappingClient, before: Granted | null, signal: AbortSignal): Promise<Granted | null> {
    const granted = await client.map(before, signal);
    if (granted === null || this.#isOurs(granted)) return granted;
    const facts = { protocol: client.protocol, external: formatEndpoint(granted.external) };
    const { publicAddress } = this.#options;
    this.#log.warn({ ...facts, seen: publicAddress?.() }, "the router mapped a port of an address that is not ours");
    await client.unmap(granted, signal);
    return null;
  }

  /** Unless others see this machine elsewhere. */
  #isOurs({ external }: Granted): boolean {
    const seen = this.#options.publicAddress?.() ?? null;
    return seen === null || seen === external.address;
  }

  /** Returns when the mapping is lost; takes it back when the mapper ends. */
  async #hold(client: MappingClient, first: Granted, signal: AbortSignal): Promise<void> {
    let granted = first;
    try {
      while (!signal.aborted) {
        this.#isAsked = true;
        this.#set({ protocol: client.protocol, external: granted.external });
        const wasPoked = await this.#pause(Math.min((granted.lifetimeS * 1000) / 2, TRUST_MS), signal);
        // Whoever knows that the network changed wants to know at once.
        const renewed = wasPoked
          ? await this.#map(client, granted, signal)
          : await this.#renew(client, granted, signal);
        if (renewed === null) break;
        granted = renewed;
      }
    } finally {
      this.#set(null);
      if (signal.aborted) await client.unmap(granted, AbortSignal.timeout(UNMAP_TIMEOUT_MS)).catch(() => undefined);
    }
  }

  async #renew(client: MappingClient, before: Granted, signal: AbortSignal): Promise<Granted | null> {
    for (let attempt = 0; ; attempt++) {
      signal.throwIfAborted();
      const renewed = await this.#map(client, before, signal);
      if (renewed !== null || attempt >= RETRY_MS.length || !this.#isOurs(before)) return renewed;
      await this.#pause(RETRY_MS[attempt] ?? 0, signal);
    }
  }

  #set(mapping: PortMapping | null): void {
    const before = this.#current;
    this.#current = mapping;
    if (before === mapping || Bun.deepEquals(before, mapping) || this.#controller.signal.aborted) return;
    if (mapping === null) this.#log.info({}, "the router's port mapping is gone");
    else this.#log.info({ protocol: mapping.protocol, external: formatEndpoint(mapping.external) }, "port mapped");
    this.#options.onChange(mapping);
  }

  /** Ends early when it is poked, or the mapper ends; true in the first case. */
  async #pause(ms: number, signal: AbortSignal): Promise<boolean> {
    if (signal.aborted) return false;
    if (!this.#isPoked) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      const timer = setTimeout(resolve, ms);
      await promise;
      clearTimeout(timer);
    }
    const wasPoked = this.#isPoked;
    this.#isPoked = false;
    return wasPoked;
  }
}
