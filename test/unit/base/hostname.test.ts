import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { isMachineName, machineNameFrom } from "../../../src/base/hostname.ts";
import { check } from "../support/property.ts";
import { anyName } from "../support/values.ts";

describe("isMachineName()", () => {
  test("isMachineName() accepts one label of a host name", () => {
    for (const name of ["a", "0", "home", "anna-s-pc", "a--b", "x".repeat(63)]) expect(isMachineName(name)).toBe(true);
    check(fc.property(anyName, (name) => expect(isMachineName(name)).toBe(true)));
  });

  test("isMachineName() refuses what could mean something in a file, a ruleset or a shell", () => {
    const wrong = [
      "",
      "-a",
      "a-",
      "A",
      "a.b",
      "a_b",
      "x".repeat(64),
      "ä",
      "a b",
      " a",
      "a ",
      "a\n",
      "a\0",
      "a\r\nb",
      'a"',
      "a'",
      "a;b",
      "a{b",
      "a}b",
      "$(a)",
      "`a`",
      "../a",
      "a/b",
      "a#b",
      "@a",
      "*",
      "a\u2028",
      "ａ",
    ];
    for (const name of wrong) expect({ name, accepted: isMachineName(name) }).toEqual({ name, accepted: false });
  });
});

describe("machineNameFrom()", () => {
  test("machineNameFrom() gives the nearest name", () => {
    const names: [string, string][] = [
      ["Anna's PC.local", "anna-s-pc"],
      ["DESKTOP-4F2", "desktop-4f2"],
      ["home.example.org", "home"],
      ["--x--", "x"],
      ["über", "ber"],
      ["", "machine"],
      ["...", "machine"],
      ["日本", "machine"],
      [`${"a".repeat(62)}-b`, "a".repeat(62)],
    ];
    for (const [hostname, name] of names)
      expect({ hostname, name: String(machineNameFrom(hostname)) }).toEqual({ hostname, name });
  });

  test("machineNameFrom() gives a valid name for any text, and a valid name back unchanged", () => {
    check(
      fc.property(fc.string({ unit: "binary", maxLength: 200 }), (text) =>
        expect(isMachineName(machineNameFrom(text))).toBe(true),
      ),
    );
    check(fc.property(anyName, (name) => expect(machineNameFrom(name)).toBe(name)));
  });
});
