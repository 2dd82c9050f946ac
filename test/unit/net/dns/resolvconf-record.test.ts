// What the two programs called resolvconf are told, and how they are told from a third.
import { describe, expect, test } from "bun:test";
import { addArgv, programOf, recordName, recordText } from "../../../../src/net/dns/resolvconf-record.ts";
import { IDENTIFIERS } from "../../../../src/net/identifiers.ts";
import { ip } from "../firewall/exit-policy.ts";

const RECORD = recordName(IDENTIFIERS.client);

/** Recorded of Debian 12's packages: resolvconf 1.91+nmu1, openresolv 3.12.0-3, systemd-resolved 252. */
const VERSIONS = {
  "Debian resolvconf 1.91+nmu1\n": "debian",
  "openresolv 3.12.0\nCopyright (c) 2007-2020 Roy Marples\n": "openresolv",
  "systemd 252 (252.39-1~deb12u1)\n+PAM +AUDIT\n": null,
  "": null,
} as const;

describe("programOf()", () => {
  for (const [said, program] of Object.entries(VERSIONS)) {
    test(`takes ${JSON.stringify(said.split("\n")[0])} for ${program ?? "neither"}`, () => {
      expect(programOf(said)).toBe(program);
    });
  }
});

test("addArgv() asks for the first place, and for the only one where that can be had", () => {
  expect(addArgv("debian", RECORD)).toEqual(["resolvconf", "-a", "tun.higgs0"]);
  expect(addArgv("openresolv", RECORD)).toEqual(["resolvconf", "-x", "-m", "0", "-a", "tun.higgs0"]);
});

test("recordText() is a resolv.conf of servers and search domains", () => {
  const servers = [ip("10.83.0.1"), ip("fd83:1:2::1")];
  expect(recordText({ interface: "higgs0", servers })).toBe("nameserver 10.83.0.1\nnameserver fd83:1:2::1\n");
  expect(recordText({ interface: "higgs0", servers, searchDomains: ["home.example", "lan"] })).toEndWith(
    "search home.example lan\n",
  );
  expect(() => recordText({ interface: "higgs0", servers, searchDomains: ["a\nnameserver 6.6.6.6"] })).toThrow(
    "no DNS name",
  );
});
