// The way to whichever server answers: a proven door and a token, shared by the control stream and the relay.
import { SerialQueue } from "../base/async.ts";
import { fromBase64Url } from "../base/bytes.ts";
import type { Logger } from "../base/log.ts";
import { type Endpoint, formatEndpoint, parseIp } from "../base/ip.ts";
import { challengeResponseSchema, tokenResponseSchema } from "../proto/api.ts";
import { proxyName } from "../net/http-proxy.ts";
import { sign } from "../proto/keys.ts";
import { machineProofMessage } from "../proto/proof.ts";
import { dialList, knownServers } from "./enrol.ts";
import type { EnrolmentStore, KnownServer } from "./enrolment.ts";
import type { MachineKeys } from "./identity.ts";
import { askedToWaitMs } from "./reconnect.ts";
import type { ProxyUse } from "./proxy-use.ts";
import { type Door, openDoor } from "./server-door.ts";

export interface ServerSession {
  readonly door: Door;
  readonly token: string;
}

/** Renewed this long before it would expire. */
const TOKEN_MARGIN_S = 60;

export class ServerLink {
  readonly #store: EnrolmentStore;
  readonly #keys: MachineKeys;
  readonly #proxy: ProxyUse | null;
  readonly #log: Logger;
  readonly #queue = new SerialQueue();
  #current: { readonly session: ServerSession; readonly goodUntilMs: number } | null = null;

  constructor(deps: {
    readonly store: EnrolmentStore;
    readonly keys: MachineKeys;
    readonly proxy?: ProxyUse | null;
    readonly log: Logger;
  }) {
    this.#proxy = deps.proxy ?? null;
    this.#store = deps.store;
    this.#keys = deps.keys;
    this.#log = deps.log;
  }

  /** The living session, or a new one: proof of the server, then proof of the machine. Throws what openDoor throws, or the server's refusal. */
  session(signal: AbortSignal): Promise<ServerSession> {
    return this.#queue.run(async () => {
      signal.throwIfAborted();
      if (this.#current !== null && performance.now() < this.#current.goodUntilMs) return this.#current.session;
      const door = await this.#open(signal);
      const { token, expiresInS } = await this.#authenticate(door, signal);
      const session = { door, token };
      this.#current = { session, goodUntilMs: performance.now() + (expiresInS - TOKEN_MARGIN_S) * 1000 };
      this.#log.debug({ server: formatEndpoint(door.endpoint) }, "server proven");
      return session;
    });
  }

  /** After a connection of this session failed: the next one starts from the proof. */
  invalidate(session: ServerSession): void {
    if (this.#current?.session === session) this.#current = null;
  }

  /** As people name it; null when no server is reached through it. */
  get proxy(): string | null {
    const use = this.#proxy;
    if (use === null) return null;
    const isUsed = dialList(this.#store.value.servers).some(({ target }) => use.for(target) !== null);
    return isUsed ? proxyName(use.choice.proxy) : null;
  }

  /** Every address and port at which a server, or the proxy before it, may be dialled: the carrier's exact destinations. */
  carriers(): Endpoint[] {
    return carriersOf(this.#store.value.servers, this.#proxy);
  }

  async #open(signal: AbortSignal): Promise<Door> {
    const servers = this.#store.value.servers;
    let failure: unknown;
    for (const { known, target } of dialList(servers)) {
      try {
        const proxy = this.#proxy?.for(target) ?? null;
        const hints = { addresses: known.addresses, pin: known.pin, proxy };
        const door = await openDoor(target, this.#store.value.network, hints, signal);
        if (proxy !== null) await this.#proxy?.keep(door.proxyAddresses);
        const names = [...servers.map((server) => server.name), ...door.names];
        await this.#store.update({ servers: knownServers(names, servers, door) });
        return door;
      } catch (thrown) {
        signal.throwIfAborted();
        // A server that is there and asks to wait says more than one that is not.
        if (failure === undefined || (askedToWaitMs(failure) === 0 && askedToWaitMs(thrown) > 0)) failure = thrown;
      }
    }
    throw failure;
  }

  async #authenticate(door: Door, signal: AbortSignal) {
    const machine = this.#store.value.id;
    const { challenge, bootId } = await door.request("POST", "/auth/challenge", {
      body: { machine },
      response: challengeResponseSchema,
      signal,
    });
    const message = machineProofMessage({
      challenge: fromBase64Url(challenge) ?? new Uint8Array(32),
      bootId: fromBase64Url(bootId) ?? new Uint8Array(16),
      machine,
      network: this.#store.value.network,
      spki: door.pin.spki,
    });
    return await door.request("POST", "/auth/token", {
      body: { machine, challenge, signature: sign("higgs machine proof v1", message, this.#keys.identity) },
      response: tokenResponseSchema,
      signal,
    });
  }
}

/** As ServerLink's `carriers`, of what is known without a link. */
export function carriersOf(servers: readonly KnownServer[], proxy: ProxyUse | null): Endpoint[] {
  const all = dialList(servers).flatMap(({ known, target }) => {
    if (proxy !== null && proxy.for(target) !== null) return proxy.endpoints();
    // One that is named by its address may never have been dialled yet, and must be reachable the first time too.
    const literal = parseIp(target.host);
    const addresses = new Set(literal === null ? known.addresses : [...known.addresses, literal]);
    return [...addresses].map((address) => ({ address, port: target.port }));
  });
  return [...new Map(all.map((endpoint) => [formatEndpoint(endpoint), endpoint])).values()];
}
