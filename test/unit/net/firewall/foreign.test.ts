// Which chains of others swallow what an exit forwards, from recorded rulesets.
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { forwardDropsIn } from "../../../../src/net/firewall/foreign.ts";

const recorded = (name: string): unknown =>
  JSON.parse(readFileSync(join(import.meta.dir, "recorded", `${name}.json`), "utf8"));

describe("forwardDropsIn()", () => {
  test("names the chain of a host firewall that forwards nothing", () => {
    expect(forwardDropsIn(recorded("iptables-forward-drop"), "higgsn0")).toEqual([
      'The chain "FORWARD" of the nft table "ip filter" drops what this machine forwards.',
    ]);
  });

  test("is content where a person let our interface through", () => {
    expect(forwardDropsIn(recorded("iptables-forward-drop-accepted"), "higgsn0")).toEqual([]);
  });

  test("takes no offence at our own table", () => {
    expect(forwardDropsIn(recorded("higgs-node"), "higgsn0")).toEqual([]);
  });
});
