// Proof of a machine's identity: single-use challenges, and the short opaque tokens that they earn.
import { sha256 } from "@noble/hashes/sha2.js";
import { fromBase64Url, toBase64Url, toHex } from "../base/bytes.ts";
import { HiggsError } from "../base/errors.ts";
import { type IdentityKey, type MachineId, type Signature, type SpkiHash, verify } from "../proto/keys.ts";
import { machineProofMessage } from "../proto/proof.ts";
import { Challenges } from "./challenges.ts";

export class AuthError extends HiggsError {
  override readonly name = "AuthError";
}

/** A machine that keeps its connections never needs a second one. */
export const TOKEN_MS = 15 * 60_000;
/** Per machine; the oldest goes first. A machine needs one at a time. */
const MOST_TOKENS = 16;

interface Token {
  readonly machine: MachineId;
  readonly expiresAt: number;
}

export interface AuthOptions {
  readonly network: IdentityKey;
  readonly spki: SpkiHash;
}

export class Auth {
  /** Base64url of 16 random bytes, new with each start: what was signed for an earlier start says nothing now. */
  readonly bootId: string;
  readonly #options: AuthOptions;
  readonly #bootIdBytes = crypto.getRandomValues(new Uint8Array(16));
  readonly #challenges = new Challenges();
  /** By SHA-256 of the token: what is in memory is no token. */
  readonly #tokens = new Map<string, Token>();
  readonly #tokensOf = new Map<MachineId, string[]>();

  constructor(options: AuthOptions) {
    this.#options = options;
    this.bootId = toBase64Url(this.#bootIdBytes);
  }

  /** Base64url of 32 bytes. Nothing is kept of it, however many are asked for. */
  challenge(machine: MachineId, now: number = Date.now()): string {
    return this.#challenges.issue(machine, now);
  }

  /** The challenge is used up whatever comes of it. Throws AuthError `proof-refused`. */
  redeem(
    answer: { readonly machine: MachineId; readonly challenge: string; readonly signature: Signature },
    identity: IdentityKey,
    now: number = Date.now(),
  ): { readonly token: string; readonly expiresInS: number } {
    const challenge = this.#challenges.use(answer.machine, answer.challenge, now);
    if (challenge === null) {
      throw new AuthError("Cannot accept the proof: the challenge is unknown, used or too old.", {
        code: "proof-refused",
      });
    }
    const message = machineProofMessage({
      challenge,
      bootId: this.#bootIdBytes,
      machine: answer.machine,
      network: this.#options.network,
      spki: this.#options.spki,
    });
    if (!verify("higgs machine proof v1", message, { key: identity, signature: answer.signature })) {
      throw new AuthError("Cannot accept the proof: the signature is not this machine's, for this server.", {
        code: "proof-refused",
      });
    }
    return { token: this.#issue(answer.machine, now), expiresInS: TOKEN_MS / 1000 };
  }

  /** The machine that a token was given to, or null. */
  machineOf(token: string, now: number = Date.now()): MachineId | null {
    const bytes = fromBase64Url(token);
    if (bytes?.length !== 32) return null;
    const found = this.#tokens.get(toHex(sha256(bytes)));
    return found === undefined || found.expiresAt <= now ? null : found.machine;
  }

  /** Everything that was given to a machine is worthless from now on. */
  revoke(machine: MachineId): void {
    for (const hash of this.#tokensOf.get(machine) ?? []) this.#tokens.delete(hash);
    this.#tokensOf.delete(machine);
  }

  /** Forgets what ran out; call it now and then. */
  sweep(now: number = Date.now()): void {
    for (const [machine, hashes] of this.#tokensOf) {
      const live = hashes.filter((hash) => (this.#tokens.get(hash)?.expiresAt ?? 0) > now);
      for (const hash of hashes) if (!live.includes(hash)) this.#tokens.delete(hash);
      if (live.length === 0) this.#tokensOf.delete(machine);
      else this.#tokensOf.set(machine, live);
    }
    this.#challenges.sweep(now);
  }

  #issue(machine: MachineId, now: number): string {
    const bytes = crypto.getRandomValues(new Uint8Array(32));
    const hash = toHex(sha256(bytes));
    const hashes = this.#tokensOf.get(machine) ?? [];
    hashes.push(hash);
    while (hashes.length > MOST_TOKENS) this.#tokens.delete(hashes.shift() ?? "");
    this.#tokensOf.set(machine, hashes);
    this.#tokens.set(hash, { machine, expiresAt: now + TOKEN_MS });
    return toBase64Url(bytes);
  }
}
