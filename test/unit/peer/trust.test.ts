import { expect, test } from "bun:test";
import fc from "fast-check";
import type { MachineName } from "../../../src/base/hostname.ts";
import type { Cidr, IpAddress } from "../../../src/base/ip.ts";
import { allowedPrefixes, judge, type Judgement, type TrustedMachine } from "../../../src/peer/trust.ts";
import { identityKeyOf, newWireGuardSecret, wireGuardKeyOf } from "../../../src/proto/keys.ts";
import type { MachineRecord } from "../../../src/proto/record.ts";
import { MACHINE_KEY, STRANGER_KEY } from "../support/keys.ts";
import { check } from "../support/property.ts";
import { ALL4, ALL6, context, recordOf, remembered, SELF_ADDRESSES, SELF_NAME, somebody } from "./machines.ts";

const home = somebody("home", 2);
const cabin = somebody("cabin", 3);
const evil = somebody("evil", 4);

function verdict(record: MachineRecord, known: readonly TrustedMachine[] = []): string {
  const judgement = judge(record, known, context);
  return judgement.kind === "refused" ? judgement.code : judgement.kind;
}

/** What is known after the record, where it is believed. */
function after(known: readonly TrustedMachine[], judgement: Judgement): readonly TrustedMachine[] {
  if (judgement.kind !== "learned") return known;
  return [...known.filter((machine) => machine !== judgement.replaces), judgement.machine];
}

test("judge() learns a machine at first sight, and knows it afterwards", () => {
  expect(verdict(recordOf(home))).toBe("learned");
  expect(verdict(recordOf(home), [remembered(home)])).toBe("known");
});

test("judge() remembers what a record says, and replaces what was remembered", () => {
  const before = remembered(home);
  const wireGuard = wireGuardKeyOf(newWireGuardSecret());
  const judgement = judge(recordOf(home, { serial: 2n, wireGuard, routes: [ALL4] }), [before], context);
  expect(judgement).toMatchObject({
    kind: "learned",
    machine: { name: "home", wireGuard, routes: [ALL4], serial: "2", addresses: [...home.addresses] },
    replaces: before,
  });
});

test("judge() refuses a record of another network", () => {
  expect(verdict(recordOf(home, { network: STRANGER_KEY }))).toBe("foreign-network");
});

test("judge() refuses a record whose time is over, and takes one that has no end or ends now", () => {
  expect(verdict(recordOf(home, { notAfter: context.now - 1n }))).toBe("expired");
  expect(verdict(recordOf(home, { notAfter: context.now }))).toBe("learned");
  expect(verdict(recordOf(home, { notAfter: 0n }))).toBe("learned");
});

test("judge() refuses whoever has this machine's own name or key", () => {
  expect(verdict(recordOf(home, { name: SELF_NAME }))).toBe("self-imitated");
  expect(verdict(recordOf(home, { identity: MACHINE_KEY }))).toBe("self-imitated");
});

test("judge() refuses an address outside the network's ranges", () => {
  for (const address of ["10.78.0.1", "192.168.1.1", "8.8.8.8", "fd00:78::1", "::1"]) {
    expect(verdict(recordOf(home, { addresses: [address as IpAddress] }))).toBe("address-foreign");
  }
});

test("judge() refuses an address that is this machine's, or another's", () => {
  for (const address of SELF_ADDRESSES) expect(verdict(recordOf(evil, { addresses: [address] }))).toBe("address-taken");
  for (const address of home.addresses) {
    const record = recordOf(evil, { addresses: [evil.addresses[0], address] });
    expect(verdict(record, [remembered(home)])).toBe("address-taken");
  }
});

test("judge() refuses another identity under a known name, and says what mends it", () => {
  const judgement = judge(recordOf(evil, { name: home.name }), [remembered(home)], context);
  expect(judgement).toMatchObject({ kind: "refused", code: "identity-changed" });
  expect(judgement.kind === "refused" ? judgement.remedy : null).toContain("higgs trust forget home");
});

test("judge() refuses another identity under a name that a known machine had before it was renamed", () => {
  const before = [remembered(home)];
  const moved = after(before, judge(recordOf(home, { serial: 2n, name: "attic" as MachineName }), before, context));
  expect(moved).toHaveLength(1);
  expect(verdict(recordOf(evil, { name: home.name }), moved)).toBe("identity-changed");
  expect(verdict(recordOf(home, { serial: 3n }), moved)).toBe("learned");
});

test("judge() refuses a lower serial", () => {
  expect(verdict(recordOf(home, { serial: 4n }), [remembered(home, { serial: 5n })])).toBe("serial-lowered");
});

test("judge() refuses two records with one serial", () => {
  const known = [remembered(home, { serial: 5n })];
  expect(verdict(recordOf(home, { serial: 5n, routes: [] }), known)).toBe("record-forked");
  expect(verdict(recordOf(home, { serial: 5n, wireGuard: evil.wireGuard }), known)).toBe("record-forked");
});

test("judge() compares serials as numbers of 64 bits", () => {
  const known = [remembered(home, { serial: 9n })];
  expect(verdict(recordOf(home, { serial: 10n }), known)).toBe("learned");
  expect(verdict(recordOf(home, { serial: 0xffff_ffff_ffff_ffffn }), known)).toBe("learned");
});

test("judge() never lets two identities share a name or an address, whatever comes in whatever order", () => {
  const people = [home, cabin, evil];
  const names = people.map((who) => who.name);
  const addresses = people.flatMap((who) => who.addresses);
  const said = fc.record({
    who: fc.constantFrom(...people),
    name: fc.constantFrom(...names),
    addresses: fc.uniqueArray(fc.constantFrom(...addresses), { minLength: 1, maxLength: 3 }),
    serial: fc.bigInt({ min: 1n, max: 6n }),
  });
  check(
    fc.property(fc.array(said, { maxLength: 12 }), (records) => {
      let known: readonly TrustedMachine[] = [];
      for (const { who, ...change } of records) known = after(known, judge(recordOf(who, change), known, context));
      const keys = people.map((who) => identityKeyOf(who.identity));
      expect(known.filter((machine) => keys.includes(machine.identity))).toHaveLength(known.length);
      for (const list of [known.map((m) => m.identity), known.map((m) => m.name), known.flatMap((m) => m.addresses)]) {
        expect(new Set<string>(list).size).toBe(list.length);
      }
    }),
  );
});

test("allowedPrefixes() gives a peer its own addresses, and of the chosen routes those that its record offers", () => {
  const offered = { addresses: [...home.addresses], routes: [ALL4, "192.168.1.0/24" as Cidr] };
  const own = ["10.77.0.2/32", "fd00:77::2/128"];
  expect(allowedPrefixes(offered, []).map(String)).toEqual(own);
  expect(allowedPrefixes(offered, [ALL4, ALL6]).map(String)).toEqual([...own, "0.0.0.0/0"]);
});
