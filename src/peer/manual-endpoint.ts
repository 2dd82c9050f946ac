// What a person named with `--endpoint`: an address as it is, or a name, looked up again and again as home lines change theirs.
import { lookup } from "node:dns/promises";
import { withDeadline } from "../base/async.ts";
import { errorText } from "../base/errors.ts";
import { type Endpoint, familyOf, type IpAddress, parseHostPort, parseIp } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";

export type LookUp = (name: string) => Promise<readonly IpAddress[]>;

/** The other candidates wait for it. A resolver that answers later is heard the next time. */
const LOOK_UP_MS = 1_500;
/** A name with more addresses than a home line has is somebody's server farm. */
const MOST_OF_A_FAMILY = 2;

export class ManualEndpoint {
  readonly #target: ReturnType<typeof parseHostPort>;
  readonly #lookUp: LookUp;
  readonly #log: Logger;
  /** What the name stood for last. */
  #known: readonly IpAddress[] = [];
  #isTold = false;

  /** `port`: where none is named. */
  constructor(
    deps: { readonly lookUp?: LookUp; readonly log: Logger },
    named: { readonly text: string | null; readonly port: number },
  ) {
    this.#lookUp = deps.lookUp ?? systemLookUp;
    this.#log = deps.log;
    this.#target = named.text === null ? null : parseHostPort(named.text, named.port);
  }

  /** Looks a name up. Throws only the signal's reason. */
  async refresh(signal: AbortSignal): Promise<void> {
    const host = this.#target?.host ?? "";
    if (host === "" || parseIp(host) !== null) return;
    try {
      const timed = { timeoutMs: LOOK_UP_MS, signal };
      this.#known = bounded(await withDeadline(`look up ${host}`, () => this.#lookUp(host), timed));
      this.#isTold = false;
    } catch (thrown) {
      signal.throwIfAborted();
      if (!this.#isTold) this.#log.warn({ name: host, reason: errorText(thrown) }, "the endpoint's name is not found");
      this.#isTold = true;
    }
  }

  /**
   * While a name cannot be looked up it stands for what it did before; before it ever was, for `publicAddress`, by which the router
   * of a home line is seen.
   */
  endpoints(publicAddress: IpAddress | null): readonly Endpoint[] {
    if (this.#target === null) return [];
    const { host, port } = this.#target;
    const address = parseIp(host);
    const seen = publicAddress === null ? [] : [publicAddress];
    const addresses = address !== null ? [address] : this.#known.length > 0 ? this.#known : seen;
    return addresses.map((one) => ({ address: one, port }));
  }
}

function bounded(found: readonly IpAddress[]): readonly IpAddress[] {
  const of = (family: 4 | 6) => found.filter((one) => familyOf(one) === family).slice(0, MOST_OF_A_FAMILY);
  return [...new Set([...of(4), ...of(6)])];
}

async function systemLookUp(name: string): Promise<readonly IpAddress[]> {
  const found = await lookup(name, { all: true });
  return found.flatMap(({ address }) => parseIp(address) ?? []);
}
