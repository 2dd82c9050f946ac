// Asking the server's STUN ports how they see WireGuard's own port: the address that a router gave it, in both families.
import { sleep } from "../base/async.ts";
import { fromBase64Url, toHex } from "../base/bytes.ts";
import { type Endpoint, familyOf, formatEndpoint, type IpAddress } from "../base/ip.ts";
import { BINDING, bindingRequest, checkIntegrity, decodeStun, encodeStun } from "../proto/stun.ts";

export interface StunCredential {
  readonly user: string;
  /** Base64url of 32 bytes. */
  readonly key: string;
}

export interface StunServers {
  readonly credential: StunCredential;
  readonly servers: readonly Endpoint[];
}

export interface Reflexive {
  readonly server: Endpoint;
  /** Null when it did not answer. */
  readonly mapped: Endpoint | null;
  readonly rttMs: number | null;
}

/** RFC 8489 section 6.2.1 starts at 500 ms; a path that is needed now is asked sooner, and given up sooner. */
const SEND_MS: readonly number[] = [0, 100, 200, 400, 800];
/** Twice the round trip by a satellite. */
const GIVE_UP_MS = 1_500;
/** Once one server has answered, the others have this much longer: one that is silent must not hold the rest up. */
const OTHERS_MS = 300;

export interface StunTransport {
  send(bytes: Uint8Array, to: Endpoint): void;
}

/** One round of questions; `take` is handed every datagram that may be an answer, and says whether it was one. */
export class StunClient {
  readonly #transport: StunTransport;
  readonly #waiting = new Map<string, (mapped: Endpoint) => void>();
  readonly #keys = new Map<string, Uint8Array>();

  constructor(transport: StunTransport) {
    this.#transport = transport;
  }

  take(bytes: Uint8Array): boolean {
    const message = decodeStun(bytes);
    if (message === null || message.class !== "success" || message.method !== BINDING) return false;
    const id = toHex(message.transactionId);
    const answer = this.#waiting.get(id);
    const key = this.#keys.get(id);
    if (answer === undefined || key === undefined || !checkIntegrity(bytes, key)) return false;
    for (const attribute of message.attributes) {
      if (attribute.type === "xor-mapped-address") answer(attribute.endpoint);
    }
    return true;
  }

  /** Asks all servers side by side. Throws only the signal's reason. */
  async ask(servers: readonly Endpoint[], credential: StunCredential, signal: AbortSignal): Promise<Reflexive[]> {
    const late = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const onAnswer = (): void => {
      timer ??= setTimeout(() => late.abort(), OTHERS_MS);
    };
    try {
      const asking = servers.map((server) => this.#askOne({ server, credential, late: late.signal, onAnswer }, signal));
      return await Promise.all(asking);
    } finally {
      clearTimeout(timer);
    }
  }

  async #askOne(
    question: {
      readonly server: Endpoint;
      readonly credential: StunCredential;
      readonly late: AbortSignal;
      readonly onAnswer: () => void;
    },
    signal: AbortSignal,
  ): Promise<Reflexive> {
    const { server, credential, late, onAnswer } = question;
    const key = fromBase64Url(credential.key) ?? new Uint8Array(32);
    const transactionId = crypto.getRandomValues(new Uint8Array(12));
    const id = toHex(transactionId);
    const request = encodeStun(bindingRequest(transactionId, [{ type: "username", text: credential.user }]), {
      integrityKey: key,
    });
    const started = performance.now();
    const over = new AbortController();
    let found: Reflexive = { server, mapped: null, rttMs: null };
    this.#keys.set(id, key);
    this.#waiting.set(id, (mapped) => {
      if (found.mapped !== null) return;
      found = { server, mapped, rttMs: performance.now() - started };
      onAnswer();
      over.abort();
    });
    try {
      const any = AbortSignal.any([signal, over.signal, late]);
      for (const at of [...SEND_MS, GIVE_UP_MS]) {
        await sleep(Math.max(0, started + at - performance.now()), any).catch(() => undefined); // looked at below
        signal.throwIfAborted();
        if (found.mapped !== null || late.aborted || at === GIVE_UP_MS) break;
        this.#transport.send(request, server);
      }
      return found;
    } finally {
      this.#waiting.delete(id);
      this.#keys.delete(id);
    }
  }
}

export interface NatView {
  /** No answer from any server: UDP does not get through. */
  readonly udp: boolean;
  readonly mapped4: Endpoint | null;
  readonly mapped6: Endpoint | null;
  /** Two ports of one server saw different addresses: a NAT that a punch cannot foresee. Null when only one answered. */
  readonly varies: boolean | null;
  /** How long each server took, the ports of one address as one: the quickest of them; null for one that did not answer. */
  readonly servers: readonly { readonly address: IpAddress; readonly rttMs: number | null }[];
}

/** What the answers say of the routers in between. */
export function natView(answers: readonly Reflexive[]): NatView {
  const of = (family: 4 | 6): Endpoint[] =>
    answers.flatMap(({ mapped }) => (mapped !== null && familyOf(mapped.address) === family ? [mapped] : []));
  const [four, six] = [of(4), of(6)];
  const distinct = new Set(four.map(formatEndpoint)).size;
  return {
    udp: answers.some((answer) => answer.mapped !== null),
    mapped4: four[0] ?? null,
    mapped6: six[0] ?? null,
    varies: four.length < 2 ? null : distinct > 1,
    servers: [...new Set(answers.map(({ server }) => server.address))].map((address) => ({
      address,
      rttMs: quickest(answers.filter(({ server }) => server.address === address)),
    })),
  };
}

function quickest(answers: readonly Reflexive[]): number | null {
  const times = answers.flatMap(({ rttMs }) => rttMs ?? []);
  return times.length === 0 ? null : Math.min(...times);
}
