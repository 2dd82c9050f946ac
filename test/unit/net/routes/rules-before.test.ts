// Which of others' routing rules take everybody's packets before ours, from what ip lists, and what a person is told.
import { describe, expect, test } from "bun:test";
import type { Exec } from "../../../../src/net/exec.ts";
import { IDENTIFIERS } from "../../../../src/net/identifiers.ts";
import {
  defaultIn,
  placeOf,
  rulesBefore,
  rulesForAll,
  ruleSentence,
  switchOff,
} from "../../../../src/net/routes/rules-before.ts";

const CLIENT = placeOf(IDENTIFIERS.client);
const NODE = placeOf(IDENTIFIERS.node);
/** What every Linux has (`ip -N -j rule`). */
const KERNEL = [
  { priority: 0, src: "all", table: "255" },
  { priority: 32766, src: "all", table: "254" },
  { priority: 32767, src: "all", table: "253" },
];
const OURS = { priority: 5270, src: "all", table: "5270" };
const TAILSCALE = [
  { priority: 5210, src: "all", fwmark: "0x80000", fwmask: "0xff0000", table: "254" },
  { priority: 5230, src: "all", fwmark: "0x80000", fwmask: "0xff0000", table: "253" },
  { priority: 5250, src: "all", fwmark: "0x80000", fwmask: "0xff0000", action: "7" },
  { priority: 5270, src: "all", table: "52" },
];
/** As wg-quick has them, whose preferences the kernel chooses: just before whatever is there. */
const wgQuick = (before: number) => [
  { priority: before - 2, src: "all", table: "254", suppress_prefixlen: 0 },
  { priority: before - 1, not: null, src: "all", fwmark: "0xca6c", table: "51820" },
];
type Rule = { readonly priority: number } & Readonly<Record<string, unknown>>;
const sorted = (...rules: readonly Rule[]): readonly Rule[] => rules.toSorted((a, b) => a.priority - b.priority);

describe("rulesForAll()", () => {
  test("finds those that are for everybody, before ours or before the main table's", () => {
    const before = { priority: 100, src: "all", table: "200" };
    expect(rulesForAll(sorted(...KERNEL, before), CLIENT)).toEqual([{ pref: 100, table: "200" }]);
    expect(rulesForAll(sorted(...KERNEL, ...wgQuick(5210)), CLIENT)).toEqual([{ pref: 5209, table: "51820" }]);
    expect(rulesForAll(sorted(...KERNEL, ...wgQuick(32766)), CLIENT)).toEqual([]);
    expect(rulesForAll(sorted(...KERNEL, ...wgQuick(32766)), NODE)).toEqual([{ pref: 32765, table: "51820" }]);
    expect(rulesForAll([...KERNEL, { priority: 7, src: "all", iif: "lo", action: "prohibit" }], CLIENT)).toEqual([
      { pref: 7, table: null },
    ]);
  });

  test("takes one of our own preference for earlier unless ours is there already", () => {
    expect(rulesForAll(sorted(...KERNEL, ...TAILSCALE), CLIENT)).toEqual([{ pref: 5270, table: "52" }]);
    expect(rulesForAll(sorted(...KERNEL, OURS, ...TAILSCALE), CLIENT)).toEqual([]);
    expect(rulesForAll(sorted(...KERNEL, ...TAILSCALE, OURS), CLIENT)).toEqual([{ pref: 5270, table: "52" }]);
  });

  test("leaves rules alone that are for few, that come later, or that lead to the machine itself", () => {
    const others = [
      { priority: 100, src: "192.168.7.4", table: "200" },
      { priority: 100, src: "all", iif: "docker0", table: "200" },
      { priority: 100, src: "all", fwmark: "0x80000", fwmask: "0xff0000", table: "254" },
      { priority: 100, src: "all", table: "254", suppress_prefixlen: 0 },
      { priority: 100, src: "all", l3mdev: null },
      { priority: 101, src: "all", goto: 5300 },
      { priority: 5300, src: "all", table: "200" },
    ];
    expect(rulesForAll(sorted(...KERNEL, ...others), CLIENT)).toEqual([]);
  });
});

test("defaultIn() finds what takes everything, also in halves, and nothing that is thrown back", () => {
  expect(
    defaultIn([
      { dst: "10.0.0.0/8", dev: "tun9" },
      { dst: "default", dev: "wg0" },
    ]),
  ).toEqual({ dev: "wg0" });
  expect(defaultIn([{ dst: "0.0.0.0/1", dev: "tun9" }])).toEqual({ dev: "tun9" });
  expect(defaultIn([{ type: "7", dst: "default" }])).toEqual({ dev: null });
  expect(
    defaultIn([
      { type: "9", dst: "default" },
      { dst: "100.100.100.100", dev: "tailscale0" },
    ]),
  ).toBeNull();
  expect(defaultIn([])).toBeNull();
});

test("rulesBefore() asks for the tables that rules lead to, and names each rule once for both families", async () => {
  const answers: Readonly<Record<string, unknown>> = {
    "-4 rule": sorted(...KERNEL, { priority: 9, src: "all", table: "300" }, ...wgQuick(5210)),
    "-6 rule": sorted(...KERNEL, ...wgQuick(5210)),
    "-4 route show table 51820": [{ dst: "default", dev: "wg0" }],
    "-6 route show table 51820": [{ dst: "default", dev: "wg0" }],
  };
  const exec: Exec = {
    run: (argv) => {
      const found = answers[argv.slice(3).join(" ")];
      const stdout = found === undefined ? "" : JSON.stringify(found);
      return Promise.resolve({ code: found === undefined ? 2 : 0, stdout, stderr: "" });
    },
  };
  const found = await rulesBefore(exec, CLIENT, new AbortController().signal);
  expect(found).toEqual([{ pref: 5209, table: "51820", interface: "wg0" }]);
});

test("switchOff() says what to type about each sentence of ruleSentence(), and nothing about others", () => {
  const into = ruleSentence({ pref: 5209, table: "51820", interface: "wg0" });
  expect(into).toBe("A routing rule of another program (preference 5209, table 51820) sends everything into wg0.");
  expect(switchOff(into)).toBe(
    "Switch off the VPN that made it (wg-quick's: sudo wg-quick down wg0). What it is: ip rule show pref 5209",
  );
  expect(switchOff(ruleSentence({ pref: 7, table: null, interface: null }))).toBe(
    "Switch off the VPN that made it. What it is: ip rule show pref 7",
  );
  expect(switchOff("Names cannot be resolved.")).toBeNull();
});
