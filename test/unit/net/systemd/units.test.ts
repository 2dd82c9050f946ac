// The units and rules that are installed, whole, and what may stand in a command line of theirs.
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { runInNewContext } from "node:vm";
import { unitsOf } from "../../../../src/net/systemd/install.ts";
import { commandLine, polkitRules, ServiceRefused } from "../../../../src/net/systemd/units.ts";

const golden = (name: string): string => readFileSync(join(import.meta.dir, "golden", name), "utf8");
const COMMAND = { executablePath: "/usr/local/bin/higgs", flags: ["--port", "51820"] };

describe("unitsOf()", () => {
  for (const role of ["server", "node", "client"] as const) {
    test(`has every line of the ${role}'s units`, () => {
      for (const [name, text] of unitsOf(role, COMMAND)) expect(text).toBe(golden(name));
    });
  }

  test("gives the client a helper and a lock, and nobody else", () => {
    const names = (["server", "node", "client"] as const).map((role) => unitsOf(role, COMMAND).map(([name]) => name));
    expect(names).toEqual([
      ["higgs-server.service"],
      ["higgs-node.service"],
      [
        "higgs-client.service",
        "higgs-resolv-conf.socket",
        "higgs-resolv-conf@.service",
        "higgs-resolv-conf-boot.service",
        "higgs-lock.service",
      ],
    ]);
  });
});

test("polkitRules() allow one user four actions", () => {
  const rules: ((action: { id: string }, subject: { user: string }) => unknown)[] = [];
  const polkit = { addRule: (rule: (typeof rules)[number]) => rules.push(rule), Result: { YES: "yes" } };
  runInNewContext(polkitRules(), { polkit });
  const ask = (id: string, user: string): unknown => rules[0]?.({ id }, { user });
  expect(rules.length).toBe(1);
  for (const verb of ["set-dns-servers", "set-domains", "set-default-route", "revert"]) {
    expect(ask(`org.freedesktop.resolve1.${verb}`, "higgs")).toBe("yes");
    expect(ask(`org.freedesktop.resolve1.${verb}`, "somebody")).toBeUndefined();
  }
  expect(ask("org.freedesktop.resolve1.register-service", "higgs")).toBeUndefined();
  expect(ask("org.freedesktop.systemd1.manage-units", "higgs")).toBeUndefined();
});

describe("commandLine()", () => {
  test("quotes what systemd would read otherwise", () => {
    expect(commandLine(["/opt/my higgs", "--endpoint", "[2001:db8::1]:51820"])).toBe(
      '"/opt/my higgs" --endpoint [2001:db8::1]:51820',
    );
    expect(commandLine(["%h", "$HOME", 'a"b\\c', "", ";", "'"])).toBe('%%h "$$HOME" "a\\"b\\\\c" "" ";" "\'"');
  });

  for (const word of ["a\nExecStart=/bin/sh", "a\u0000b", "\u007f"]) {
    test(`refuses ${JSON.stringify(word)}, which would be a line of its own`, () => {
      expect(() => commandLine(["/usr/bin/higgs", word])).toThrow(ServiceRefused);
    });
  }
});
