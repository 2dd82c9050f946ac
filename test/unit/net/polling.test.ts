// Looking at a machine again and again: who is told, and when it ends.
import { describe, expect, test } from "bun:test";
import { silentLogger } from "../../../src/base/log.ts";
import { addressesDiffer, polling } from "../../../src/net/polling.ts";

describe("polling()", () => {
  test("tells of each look that sees a change, goes on after one that fails, and ends when it is disposed", async () => {
    const looks = [true, false, new Error("busy"), true];
    let told = 0;
    let looked = 0;
    const seen = Promise.withResolvers<void>();
    const service = polling(
      () => {
        const look = looks[looked++] ?? false;
        if (looked > looks.length) seen.resolve();
        return look instanceof Error ? Promise.reject(look) : Promise.resolve(look);
      },
      { everyMs: 1, onChange: () => void told++, log: silentLogger },
    );
    await seen.promise;
    await service[Symbol.asyncDispose]();
    const after = looked;
    await new Promise((resolve) => setImmediate(resolve));
    expect(told).toBe(2);
    expect(looked).toBe(after);
  });
});

describe("addressesDiffer()", () => {
  test("is true the first time, and when an address came or went", async () => {
    let addresses: readonly string[] = ["192.168.7.20"];
    const differ = addressesDiffer(() => addresses);
    expect([await differ(), await differ()]).toEqual([true, false]);
    addresses = ["10.0.0.5"];
    expect([await differ(), await differ()]).toEqual([true, false]);
  });
});
