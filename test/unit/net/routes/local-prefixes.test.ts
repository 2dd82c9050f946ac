// Which bridges stay outside the tunnel.
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { bridgesWithoutUplink } from "../../../../src/net/routes/local-prefixes.ts";

const links: unknown = JSON.parse(readFileSync(join(import.meta.dir, "recorded/links-bridges.json"), "utf8"));

describe("bridgesWithoutUplink()", () => {
  test("finds those of containers and virtual machines, and not one with a cable in it", () => {
    expect(bridgesWithoutUplink(links)).toEqual(["docker0", "virbr0"]);
  });

  test("never takes a bridge that has the default route", () => {
    expect(bridgesWithoutUplink(links, { uplinks: ["docker0"] })).toEqual(["virbr0"]);
  });
});
