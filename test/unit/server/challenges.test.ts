import { expect, test } from "bun:test";
import fc from "fast-check";
import { fromBase64Url, toBase64Url } from "../../../src/base/bytes.ts";
import { CHALLENGE_MS, Challenges } from "../../../src/server/challenges.ts";
import { check } from "../support/property.ts";
import { machineId } from "./values.ts";

const [MACHINE, OTHER] = [machineId(1), machineId(2)];

test("Challenges.use() takes one once, for its machine, at this start, until it is too old", () => {
  const challenges = new Challenges();
  const text = challenges.issue(MACHINE, 5);
  expect(challenges.use(OTHER, text, 5)).toBeNull();
  expect(new Challenges().use(MACHINE, text, 5)).toBeNull();
  expect(challenges.use(MACHINE, text, 5 + CHALLENGE_MS)).toBeNull();
  expect(challenges.use(MACHINE, text, 4 + CHALLENGE_MS)).toEqual(fromBase64Url(text));
  expect(challenges.use(MACHINE, text, 4 + CHALLENGE_MS)).toBeNull();
});

test("Challenges.use() takes nothing that was changed, cut or made up", () => {
  const challenges = new Challenges();
  const bytes = fromBase64Url(challenges.issue(MACHINE, 0)) ?? new Uint8Array(0);
  expect(bytes.length).toBe(32);
  for (let at = 0; at < bytes.length; at++) {
    expect(challenges.use(MACHINE, toBase64Url(bytes.with(at, (bytes[at] ?? 0) ^ 1)), 1)).toBeNull();
    expect(challenges.use(MACHINE, toBase64Url(bytes.subarray(0, at)), 1)).toBeNull();
  }
  check(
    fc.property(fc.string(), fc.uint8Array({ minLength: 32, maxLength: 32 }), (text, noise) => {
      expect(challenges.use(MACHINE, text, 1)).toBeNull();
      expect(challenges.use(MACHINE, toBase64Url(noise), 1)).toBeNull();
    }),
  );
  expect(challenges.use(MACHINE, toBase64Url(bytes), 1)).not.toBeNull();
});

test("Challenges remembers what was used until it is too old, and nothing of what was only asked for", () => {
  const challenges = new Challenges();
  for (let i = 0; i < 100; i++) challenges.issue(MACHINE, i);
  expect(challenges.size).toBe(0);
  const text = challenges.issue(MACHINE, 0);
  challenges.use(MACHINE, text, 10);
  challenges.sweep(CHALLENGE_MS - 1);
  expect([challenges.size, challenges.use(MACHINE, text, CHALLENGE_MS - 1)]).toEqual([1, null]);
  challenges.sweep(CHALLENGE_MS);
  expect(challenges.size).toBe(0);
});
