// How long this network's router keeps a mapping that nobody uses, measured from ports of its own: nothing of a session depends on them.
//
//   port 1 … n   ask STUN once, and are silent from then on
//   asker        when gap n is over, has STUN's next answer sent to port n (RESPONSE-PORT): it arrives, or the mapping is gone
//
// A port of its own for each gap, as an answer that arrives keeps a mapping alive.
import { sleep } from "../base/async.ts";
import { fromBase64Url, toHex } from "../base/bytes.ts";
import type { Endpoint } from "../base/ip.ts";
import type { SidePort } from "../net/discovery/discovery.ts";
import { BINDING, bindingRequest, checkIntegrity, decodeStun, encodeStun } from "../proto/stun.ts";
import type { StunCredential } from "./stun-client.ts";

/** Just below what routers are set to: 3, 6, 10, 15, 20 and 30 s. Longer ones need no more than a packet every 25 s anyway. */
export const GAPS_MS: readonly number[] = [2_500, 5_000, 9_000, 14_000, 19_000, 28_000];
/** A question is repeated after so long, and given up at the end. */
const ASK_MS: readonly number[] = [0, 150, 300, 700];
/** Two mappings that are gone say that the longer gaps need not be waited for. */
const GONE_ENOUGH = 2;

export interface MappingLifeDeps {
  readonly openSide: (onDatagram: (bytes: Uint8Array, from: Endpoint) => void) => Promise<SidePort>;
}

export interface MappingQuestion {
  readonly server: Endpoint;
  readonly credential: StunCredential;
}

/**
 * The longest gap that a mapping outlived, in milliseconds; 0 for none. Null when it cannot be told: the server does not answer
 * at another port, or nothing gets through at all. Throws the signal's reason, and DiscoveryFailed where there are no ports.
 */
export async function measureMappingLife(
  deps: MappingLifeDeps,
  question: MappingQuestion,
  signal: AbortSignal,
): Promise<number | null> {
  await using stack = new AsyncDisposableStack();
  const asker = await openAsker(deps, question, stack);
  const control = await openIdle(deps, question, { stack, signal });
  if (control === null || !(await isAlive(asker, control, signal))) return null;
  const idle: { readonly gapMs: number; readonly port: IdlePort }[] = [];
  for (const gapMs of GAPS_MS) {
    const port = await openIdle(deps, question, { stack, signal });
    if (port !== null) idle.push({ gapMs, port });
  }
  let lifeMs = 0;
  let gone = 0;
  for (const { gapMs, port } of idle) {
    await sleep(Math.max(0, port.spokeAt + gapMs - performance.now()), signal);
    if (await isAlive(asker, port, signal)) {
      lifeMs = gapMs;
      gone = 0;
    } else gone++;
    if (gone >= GONE_ENOUGH) break;
  }
  return lifeMs;
}

interface IdlePort {
  /** As the server sees it. */
  readonly mapped: number;
  readonly spokeAt: number;
  /** Transactions whose answers have arrived here. */
  readonly heard: ReadonlySet<string>;
}

interface Asker {
  ask(transactionId: Uint8Array, responsePort: number): void;
}

interface Around {
  readonly stack: AsyncDisposableStack;
  readonly signal: AbortSignal;
}

/** Speaks until it is answered, then no more. Without a key: what the server remembers of this machine are its real ports. */
async function openIdle(
  deps: MappingLifeDeps,
  { server, credential }: MappingQuestion,
  { stack, signal }: Around,
): Promise<IdlePort | null> {
  const key = keyOf(credential);
  const heard = new Set<string>();
  const id = crypto.getRandomValues(new Uint8Array(12));
  let mapped: number | null = null;
  const side = await deps.openSide((bytes) => {
    const message = decodeStun(bytes);
    if (message === null || message.class !== "success" || message.method !== BINDING) return;
    const isFirst = toHex(message.transactionId) === toHex(id);
    if (!isFirst && checkIntegrity(bytes, key)) heard.add(toHex(message.transactionId));
    if (!isFirst) return;
    for (const one of message.attributes) if (one.type === "xor-mapped-address") mapped = one.endpoint.port;
  });
  stack.use(side);
  const request = encodeStun(bindingRequest(id));
  let spokeAt = performance.now();
  for (const [i, atMs] of ASK_MS.entries()) {
    if (i > 0) await sleep(atMs - (ASK_MS[i - 1] ?? 0), signal);
    if (mapped !== null || i === ASK_MS.length - 1) break;
    spokeAt = performance.now();
    side.send(request, server);
  }
  return mapped === null ? null : { mapped, spokeAt, heard };
}

async function openAsker(
  deps: MappingLifeDeps,
  { server, credential }: MappingQuestion,
  stack: AsyncDisposableStack,
): Promise<Asker> {
  const side = stack.use(await deps.openSide(() => undefined));
  return {
    ask(transactionId, responsePort) {
      const attributes = [
        { type: "username", text: credential.user } as const,
        { type: "response-port", port: responsePort } as const,
      ];
      const request = encodeStun(bindingRequest(transactionId, attributes), { integrityKey: keyOf(credential) });
      side.send(request, server);
    },
  };
}

async function isAlive(asker: Asker, port: IdlePort, signal: AbortSignal): Promise<boolean> {
  const id = crypto.getRandomValues(new Uint8Array(12));
  for (const [i, atMs] of ASK_MS.entries()) {
    if (i > 0) await sleep(atMs - (ASK_MS[i - 1] ?? 0), signal);
    if (port.heard.has(toHex(id))) return true;
    if (i < ASK_MS.length - 1) asker.ask(id, port.mapped);
  }
  return false;
}

function keyOf({ key }: StunCredential): Uint8Array {
  return fromBase64Url(key) ?? new Uint8Array(32);
}
