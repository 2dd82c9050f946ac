import { describe, expect, test } from "bun:test";
import { fromBase64Url } from "../../../src/base/bytes.ts";
import { type IdentitySecret, type MachineId, type SpkiHash, sign } from "../../../src/proto/keys.ts";
import { machineProofMessage } from "../../../src/proto/proof.ts";
import { Auth, TOKEN_MS } from "../../../src/server/auth.ts";
import { CHALLENGE_MS } from "../../../src/server/challenges.ts";
import { MACHINE_KEY, MACHINE_SECRET, NETWORK_KEY, STRANGER_SECRET } from "../support/keys.ts";
import { machineId } from "./values.ts";

const SPKI = "A".repeat(43) as SpkiHash;
const OTHER_SPKI = `${"A".repeat(42)}E` as SpkiHash;
const MACHINE = machineId(1);

interface Choice {
  readonly secret?: IdentitySecret;
  readonly spki?: SpkiHash;
  readonly machine?: MachineId;
  readonly bootId?: string;
}

function answerTo(auth: Auth, challenge: string, choice: Choice = {}) {
  const machine = choice.machine ?? MACHINE;
  const message = machineProofMessage({
    challenge: fromBase64Url(challenge) ?? new Uint8Array(32),
    bootId: fromBase64Url(choice.bootId ?? auth.bootId) ?? new Uint8Array(16),
    machine,
    network: NETWORK_KEY,
    spki: choice.spki ?? SPKI,
  });
  return { machine, challenge, signature: sign("higgs machine proof v1", message, choice.secret ?? MACHINE_SECRET) };
}

const fresh = (): Auth => new Auth({ network: NETWORK_KEY, spki: SPKI });

describe("Auth.redeem()", () => {
  test("gives a token for a signed challenge, and the token names the machine until it expires", () => {
    const auth = fresh();
    const { token, expiresInS } = auth.redeem(answerTo(auth, auth.challenge(MACHINE, 0)), MACHINE_KEY, 0);
    expect(expiresInS).toBe(900);
    expect(auth.machineOf(token, TOKEN_MS - 1)).toBe(MACHINE);
    expect(auth.machineOf(token, TOKEN_MS)).toBeNull();
  });

  test.each<[string, (auth: Auth, challenge: string) => ReturnType<typeof answerTo>]>([
    ["of another machine's key", (auth, challenge) => answerTo(auth, challenge, { secret: STRANGER_SECRET })],
    ["for another certificate", (auth, challenge) => answerTo(auth, challenge, { spki: OTHER_SPKI })],
    ["for another start of the server", (auth, challenge) => answerTo(auth, challenge, { bootId: fresh().bootId })],
    ["to another machine's challenge", (auth, challenge) => answerTo(auth, challenge, { machine: machineId(2) })],
    ["to a challenge that was never given", (auth) => answerTo(auth, "B".repeat(42).concat("E"))],
  ])("refuses a proof %s", (_what, answer) => {
    const auth = fresh();
    const challenge = auth.challenge(MACHINE, 0);
    expect(() => auth.redeem(answer(auth, challenge), MACHINE_KEY, 0)).toThrow(
      expect.objectContaining({ code: "proof-refused" }),
    );
  });

  test("takes a challenge once, also when the first answer was wrong", () => {
    const auth = fresh();
    const used = auth.challenge(MACHINE, 0);
    auth.redeem(answerTo(auth, used), MACHINE_KEY, 0);
    expect(() => auth.redeem(answerTo(auth, used), MACHINE_KEY, 0)).toThrow(
      expect.objectContaining({ code: "proof-refused" }),
    );
    const missed = auth.challenge(MACHINE, 0);
    expect(() => auth.redeem(answerTo(auth, missed, { secret: STRANGER_SECRET }), MACHINE_KEY, 0)).toThrow();
    expect(() => auth.redeem(answerTo(auth, missed), MACHINE_KEY, 0)).toThrow(
      expect.objectContaining({ code: "proof-refused" }),
    );
  });

  test("refuses a challenge that is too old, or that a clock since set back has not reached", () => {
    const auth = fresh();
    const old = auth.challenge(MACHINE, 0);
    expect(() => auth.redeem(answerTo(auth, old), MACHINE_KEY, CHALLENGE_MS)).toThrow();
    const early = auth.challenge(MACHINE, 1000);
    expect(() => auth.redeem(answerTo(auth, early), MACHINE_KEY, 999)).toThrow();
    expect(auth.redeem(answerTo(auth, early), MACHINE_KEY, 999 + CHALLENGE_MS).expiresInS).toBe(900);
  });

  test("takes a machine's own challenge however many a stranger asked for in its name: nine pushed it out", () => {
    const auth = fresh();
    const own = auth.challenge(MACHINE, 0);
    for (let i = 0; i < 1000; i++) auth.challenge(MACHINE, 0);
    expect(auth.redeem(answerTo(auth, own), MACHINE_KEY, 0).expiresInS).toBe(900);
  });
});

describe("Auth.machineOf()", () => {
  test("knows nothing of a revoked machine's tokens, nor of those of an earlier start", () => {
    const auth = fresh();
    const { token } = auth.redeem(answerTo(auth, auth.challenge(MACHINE)), MACHINE_KEY);
    expect(auth.machineOf(token)).toBe(MACHINE);
    expect(fresh().machineOf(token)).toBeNull();
    auth.revoke(MACHINE);
    expect(auth.machineOf(token)).toBeNull();
  });

  test("keeps the newest tokens of a machine only", () => {
    const auth = fresh();
    const tokens = Array.from(
      { length: 17 },
      () => auth.redeem(answerTo(auth, auth.challenge(MACHINE)), MACHINE_KEY).token,
    );
    expect(tokens.map((token) => auth.machineOf(token) !== null)).toEqual([false, ...Array<boolean>(16).fill(true)]);
  });

  test("takes nothing that is no token", () => {
    const auth = fresh();
    for (const text of ["", "x", "A".repeat(43), "A".repeat(44), "\0".repeat(43)])
      expect(auth.machineOf(text)).toBeNull();
  });
});

test("Auth.sweep() forgets what ran out and keeps what lives", () => {
  const auth = fresh();
  const early = auth.redeem(answerTo(auth, auth.challenge(MACHINE, 0)), MACHINE_KEY, 0).token;
  const late = auth.redeem(answerTo(auth, auth.challenge(MACHINE, 1000)), MACHINE_KEY, 1000).token;
  auth.sweep(TOKEN_MS + 1);
  expect(auth.machineOf(early, 500)).toBeNull();
  expect(auth.machineOf(late, TOKEN_MS + 1)).toBe(MACHINE);
});
