// Finds out where this machine may be reached: its links, what STUN sees, what the router maps and what a person forwarded.
import { Debounce, repeat } from "../base/async.ts";
import { errorText } from "../base/errors.ts";
import { type Cidr, familyOf, type IpAddress } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import type { Discovery } from "../net/discovery/discovery.ts";
import type { Links } from "../net/links.ts";
import type { Candidate } from "../proto/path.ts";
import { ownCandidates } from "./candidates.ts";
import { type LinksChange, linksChange } from "./links-change.ts";
import { ManualEndpoint } from "./manual-endpoint.ts";
import { type RouterAccess, RouterPort, type RouterPortView } from "./router-port.ts";
import { mappingOf, type NatMapping } from "./side-plan.ts";
import {
  type NatView,
  natView,
  type Reflexive,
  StunClient,
  type StunCredential,
  type StunServers,
} from "./stun-client.ts";

export interface GathererDeps {
  /** Null where the port cannot be shared: then nothing is gathered. */
  readonly discovery: Discovery | null;
  readonly readLinks: (signal: AbortSignal) => Promise<Links>;
  /** Null while no server was heard of. */
  readonly stun: () => StunServers | null;
  /** Null where no port shall be mapped. */
  readonly router: RouterAccess | null;
  readonly log: Logger;
}

export interface GathererOptions {
  readonly publicPort: number;
  readonly ranges: readonly Cidr[];
  readonly manual: string | null;
  readonly ipv6: boolean;
  /** STUN servers were asked. */
  readonly onStun: (answers: readonly Reflexive[], credential: StunCredential) => void;
  /** There is a new round: peers are to be told. */
  readonly onRound: () => void;
  /** What was found out about paths holds no more. */
  readonly onLinksChanged: (change: LinksChange) => void;
  readonly onRouterPort: () => void;
}

/** A better path may have opened. */
const SEARCH_MS = 60_000;
const RANDOM_SPREAD_MS = 5_000;
const SETTLE_MS = 100;
/** However often paths are lost. */
const AGAIN_MS = 5_000;
/** After nobody answered, and twice as long each time. */
const UNANSWERED_MS = 2_000;

export class Gatherer implements AsyncDisposable {
  readonly stunClient: StunClient;
  readonly #deps: GathererDeps;
  readonly #options: GathererOptions;
  readonly #signal: AbortSignal;
  readonly #manual: ManualEndpoint;
  readonly #routerPort: RouterPort;
  readonly #soon: Debounce;
  readonly #loops: readonly Promise<unknown>[];
  #links: Links | null = null;
  #answers: readonly Reflexive[] = [];
  #own: readonly Candidate[] = [];
  #mapping: NatMapping | null = null;
  #round = 0;
  #gatheredAt = Number.NEGATIVE_INFINITY;
  #patienceMs = UNANSWERED_MS;
  #retry: ReturnType<typeof setTimeout> | undefined;

  readonly #failed = (thrown: unknown): void => {
    if (!this.#signal.aborted) this.#deps.log.warn({ reason: errorText(thrown) }, "candidates not gathered");
  };

  /** Goes on until the signal aborts. */
  constructor(deps: GathererDeps, options: GathererOptions, signal: AbortSignal) {
    const { discovery } = deps;
    this.#deps = deps;
    this.#options = options;
    this.#signal = signal;
    this.stunClient = new StunClient({ send: (bytes, to) => void discovery?.send(bytes, to) });
    this.#manual = new ManualEndpoint(deps, { text: options.manual, port: options.publicPort });
    this.#routerPort = new RouterPort(discovery === null ? null : deps.router, {
      port: discovery?.publicPort ?? 0,
      ranges: options.ranges,
      publicAddress: () => this.#publicAddress,
      onChange: () => {
        if (this.#round > 0) this.#tell();
        options.onRouterPort();
      },
    });
    const failed = this.#failed;
    this.#soon = new Debounce(() => void this.#gather().catch(failed), SETTLE_MS);
    if (deps.stun() !== null) this.#soon.poke(); // the welcome came before
    const again = { everyMs: SEARCH_MS, jitterMs: RANDOM_SPREAD_MS, signal, onError: failed };
    // A router takes its time, and a node wants to be reachable before anybody comes.
    this.#loops = [repeat(() => this.#gather(), again), this.look().catch(failed)];
  }

  get links(): Links | null {
    return this.#links;
  }

  /** Null before a server was asked. */
  get nat(): NatView | null {
    return this.#answers.length === 0 ? null : natView(this.#answers);
  }

  /** What kind of router is in the way; null before it is known. */
  get mapping(): NatMapping | null {
    return this.#mapping;
  }

  /** True when the server sees an address of this machine's own: no router translates. */
  get isPublic(): boolean {
    const seen = this.#publicAddress;
    return seen !== null && this.#links?.addresses.some(({ address }) => address === seen) === true;
  }

  get routerPort(): RouterPortView {
    return this.#routerPort.view;
  }

  get own(): readonly Candidate[] {
    return this.#own;
  }

  /** 0 before anything was gathered. */
  get round(): number {
    return this.#round;
  }

  /** For an offer that has more than what is gathered here. */
  nextRound(): number {
    return ++this.#round;
  }

  poke(): void {
    this.#soon.poke();
  }

  /** A router may have got another address without a link of ours changing. */
  pathLost(): void {
    if (performance.now() - this.#gatheredAt > AGAIN_MS) this.#soon.poke();
  }

  /** Our own rules and routes make events too; only other addresses, ways out or networks are a change. */
  async look(): Promise<void> {
    if (this.#deps.discovery === null) return;
    const now = await this.#deps.readLinks(this.#signal);
    if (this.#take(now)) this.#soon.poke();
    this.#routerPort.follow(now);
  }

  async #gather(isRetry = false): Promise<void> {
    const { discovery, readLinks } = this.#deps;
    if (discovery === null) return;
    this.#gatheredAt = performance.now();
    const now = await readLinks(this.#signal);
    this.#take(now);
    this.#routerPort.follow(now);
    await Promise.all([this.#askStun(discovery), this.#manual.refresh(this.#signal)]);
    this.#routerPort.follow(now); // a mapping of another address is judged by what STUN saw
    const isUnanswered = this.#answers.length > 0 && !natView(this.#answers).udp;
    if (isUnanswered) this.#retryLater();
    else this.#patienceMs = UNANSWERED_MS;
    if (!isUnanswered || !isRetry) this.#tell();
  }

  /** What UDP loses for a second, as while a network comes up, must not cost the minute until the next search. */
  #retryLater(): void {
    clearTimeout(this.#retry);
    if (this.#signal.aborted || this.#patienceMs >= SEARCH_MS) return;
    this.#retry = setTimeout(() => void this.#gather(true).catch(this.#failed), this.#patienceMs);
    this.#patienceMs *= 2;
  }

  /** True when they are others than before, whoever read them. */
  #take(now: Links): boolean {
    const before = this.#links;
    this.#links = now;
    const change = before === null ? null : linksChange(before, now);
    if (change === null) return false;
    this.#mapping = null;
    this.#patienceMs = UNANSWERED_MS;
    this.#routerPort.refresh();
    this.#options.onLinksChanged(change);
    return true;
  }

  async #askStun({ families, publicPort }: Discovery): Promise<void> {
    const stun = this.#deps.stun();
    if (stun === null) return;
    const servers = stun.servers.filter((server) => families.includes(familyOf(server.address)));
    this.#answers = await this.stunClient.ask(servers, stun.credential, this.#signal);
    const now = mappingOf(this.#answers, publicPort);
    // Later on the two questions have mappings of different age: no row shows any more.
    if (now !== null && !(this.#mapping === "sequential" && now === "random")) this.#mapping = now;
    this.#options.onStun(this.#answers, stun.credential);
  }

  #tell(): void {
    const { discovery, log } = this.#deps;
    if (discovery === null || this.#links === null || this.#signal.aborted) return;
    const reflexive = this.#answers.flatMap(({ mapped }) => (mapped === null ? [] : [mapped]));
    const [mapped, manual] = [this.#routerPort.endpoints, this.#manual.endpoints(this.#publicAddress)];
    const gathered = { links: this.#links, port: discovery.publicPort, reflexive, mapped, manual };
    this.#own = ownCandidates(gathered).filter(({ endpoint }) => this.#options.ipv6 || !endpoint.startsWith("["));
    const round = this.nextRound();
    this.#options.onRound();
    log.debug({ round, candidates: this.#own.map((one) => `${one.kind} ${one.endpoint}`) }, "candidates gathered");
  }

  get #publicAddress(): IpAddress | null {
    return natView(this.#answers).mapped4?.address ?? null;
  }

  /** After its signal was aborted. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#soon.cancel();
    clearTimeout(this.#retry);
    await Promise.all([...this.#loops, this.#routerPort[Symbol.asyncDispose]()]);
  }
}
