// When a resolv.conf of somebody else's is worth a warning.
import { describe, expect, test } from "bun:test";
import { parseCidr } from "../../../src/base/ip.ts";
import { foreignNamesText, namesHealth } from "../../../src/roles/names-health.ts";

const lan = ["192.168.7.0/24"].map((text) => parseCidr(text)).filter((prefix) => prefix !== null);
const codes = (servers: readonly string[] | null, isLan: boolean): readonly string[] =>
  namesHealth(servers, { lan: isLan, networks: { lan } }).map(({ code }) => code);

describe("namesHealth()", () => {
  test("says nothing of servers that the tunnel leads to", () => {
    expect(codes(null, true)).toEqual([]);
    expect(codes(["9.9.9.9"], true)).toEqual([]);
    expect(codes(["192.168.7.1"], false)).toEqual([]);
    expect(codes(["127.0.0.1"], true)).toEqual([]);
    expect(codes(["192.168.7.1", "9.9.9.9"], true)).toEqual([]);
  });

  test("warns of servers that are all closed, and of none", () => {
    expect(codes(["192.168.7.1"], true)).toEqual(["names-closed"]);
    expect(codes(["fe80::1%eth0", "169.254.1.1"], false)).toEqual(["names-closed"]);
    expect(codes([], false)).toEqual(["names-closed"]);
  });
});

test("foreignNamesText() says who is asked", () => {
  expect(foreignNamesText(["9.9.9.9", "1.1.1.1"])).toContain("9.9.9.9, 1.1.1.1");
  expect(foreignNamesText([])).toContain("asked of nobody");
});
