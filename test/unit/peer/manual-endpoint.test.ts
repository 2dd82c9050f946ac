import { expect, test } from "bun:test";
import { silentLogger } from "../../../src/base/log.ts";
import type { IpAddress } from "../../../src/base/ip.ts";
import { type LookUp, ManualEndpoint } from "../../../src/peer/manual-endpoint.ts";
import { failureOf } from "../support/failure.ts";

const NEVER = new AbortController().signal;
const SEEN = "198.51.100.1" as IpAddress;
const nobody: LookUp = () => Promise.reject(new Error("ENOTFOUND"));

function named(text: string | null, lookUp: LookUp = nobody) {
  const manual = new ManualEndpoint({ lookUp, log: silentLogger }, { text, port: 51_820 });
  return async (seen: IpAddress | null = SEEN) => {
    await manual.refresh(NEVER);
    return manual.endpoints(seen).map(({ address, port }) => `${address} ${port}`);
  };
}

test("ManualEndpoint takes an address as it is, with WireGuard's port where none is named", async () => {
  expect(await named("203.0.113.7:9000")()).toEqual(["203.0.113.7 9000"]);
  expect(await named("[2001:db8::7]:9000")()).toEqual(["2001:db8::7 9000"]);
  expect(await named("203.0.113.7")()).toEqual(["203.0.113.7 51820"]);
  expect(await named(null)()).toEqual([]);
});

test("ManualEndpoint looks a name up each time, in both families, and takes no more than a home line has", async () => {
  const rounds = [
    ["203.0.113.7", "2001:db8::7"],
    ["203.0.113.8", "203.0.113.9", "203.0.113.9", "203.0.113.10", "2001:db8::8"],
  ];
  const resolve = named("home.example:9000", () => Promise.resolve((rounds.shift() ?? []) as IpAddress[]));
  expect(await resolve()).toEqual(["203.0.113.7 9000", "2001:db8::7 9000"]);
  expect(await resolve()).toEqual(["203.0.113.8 9000", "203.0.113.9 9000", "2001:db8::8 9000"]);
});

test("ManualEndpoint takes what the name stood for before, or the address that STUN saw, when nobody knows the name", async () => {
  let known: readonly IpAddress[] | null = null;
  const resolve = named("home.example:9000", () => (known === null ? nobody("") : Promise.resolve(known)));
  expect(await resolve(null)).toEqual([]);
  expect(await resolve()).toEqual(["198.51.100.1 9000"]);
  known = ["203.0.113.7" as IpAddress];
  expect(await resolve()).toEqual(["203.0.113.7 9000"]);
  known = null;
  expect(await resolve()).toEqual(["203.0.113.7 9000"]);
});

test("ManualEndpoint waits for no resolver that is silent, and ends with its signal", async () => {
  const silent: LookUp = () => new Promise(() => undefined);
  expect(await named("home.example:9000", silent)()).toEqual(["198.51.100.1 9000"]);
  const controller = new AbortController();
  const manual = new ManualEndpoint({ lookUp: silent, log: silentLogger }, { text: "home.example:1", port: 1 });
  const failure = failureOf(manual.refresh(controller.signal));
  controller.abort(new Error("enough"));
  expect(await failure).toMatchObject({ message: "enough" });
});
