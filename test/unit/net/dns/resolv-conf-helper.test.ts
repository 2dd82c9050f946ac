// Asking the helper for resolv.conf over a real socket, and what the helper does with what it is asked.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLogger } from "../../../../src/base/log.ts";
import { DnsRefused } from "../../../../src/net/dns/errors.ts";
import { askHelper, helperDns } from "../../../../src/net/dns/resolv-conf-helper.ts";
import { answerHelperRequest, restoreForHelper } from "../../../../src/net/dns/resolv-conf-request.ts";
import { resolvConfText } from "../../../../src/net/dns/resolv-conf-text.ts";
import { ip } from "../firewall/exit-policy.ts";
import { IDENTIFIERS } from "../../../../src/net/identifiers.ts";
import { FakeResolvectl } from "./fake-resolvectl.ts";

const { signal } = new AbortController();
const POLICY = { interface: "higgs0", servers: [ip("10.83.0.1"), ip("fd83:1:2::1")], searchDomains: ["home.example"] };
const ORIGINAL = "nameserver 192.168.7.1\n";

let dir = "";
let path = "";
let stateDir = "";
let socketPath = "";
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "higgs-helper-"));
  path = join(dir, "resolv.conf");
  stateDir = join(dir, "state");
  socketPath = join(dir, "helper.sock");
  writeFileSync(path, ORIGINAL);
});
afterEach(() => rmSync(dir, { recursive: true }));

const answer = (line: string) =>
  answerHelperRequest(line, { log: silentLogger, exec: new FakeResolvectl(), stateDir, path }, signal);
const read = (): string => readFileSync(path, "utf8");

/** One request a connection, as the service manager gives them to the helper. */
async function serving(reply: (line: string) => Promise<string>): Promise<Server & AsyncDisposable> {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    let said = "";
    socket.on("data", (chunk) => {
      said += chunk.toString();
      if (said.includes("\n")) void reply(said.trimEnd()).then((text) => socket.end(text));
    });
  });
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  return server;
}

describe("helperDns()", () => {
  test("sets the file by the helper, once, and has it put back", async () => {
    let asked = 0;
    await using _server = await serving(async (line) => {
      asked++;
      return `${JSON.stringify(await answer(line))}\n`;
    });
    const dns = helperDns({ identifiers: IDENTIFIERS.client }, path, socketPath);
    await dns.apply(POLICY, signal);
    await dns.apply(POLICY, signal);
    expect(read()).toBe(resolvConfText(POLICY));
    expect(asked).toBe(1);
    await dns.reset(signal);
    await dns.reset(signal);
    expect(read()).toBe(ORIGINAL);
    expect(asked).toBe(2);
  });

  for (const [what, reply, code] of [
    ["refuses", '{"error":{"code":"resolv-conf-refused","message":"Cannot write."}}\n', "resolv-conf-refused"],
    ["ends without a word", "", "resolv-conf-refused"],
    ["says nonsense", "x".repeat(20_000), "resolv-conf-refused"],
  ] as const) {
    test(`throws DnsRefused when the helper ${what}`, async () => {
      await using _server = await serving(() => Promise.resolve(reply));
      const thrown = await askHelper({ reset: true }, signal, socketPath).catch((error: unknown) => error);
      expect(thrown).toBeInstanceOf(DnsRefused);
      expect(thrown).toMatchObject({ code });
    });
  }
});

describe("answerHelperRequest()", () => {
  for (const line of [
    "",
    "nonsense",
    "{}",
    '{"reset":false}',
    '{"servers":[],"searchDomains":[]}',
    '{"servers":["10.0.0.1\\nnameserver 6.6.6.6"],"searchDomains":[]}',
    '{"servers":["10.0.0.1"],"searchDomains":["a b"]}',
    '{"servers":["10.0.0.1"],"searchDomains":[],"path":"/etc/passwd"}',
    `{"servers":[${Array.from({ length: 9 }, () => '"10.0.0.1"').join()}],"searchDomains":[]}`,
  ]) {
    test(`refuses ${line.slice(0, 60)}`, async () => {
      expect(await answer(line)).toHaveProperty("error");
      expect(read()).toBe(ORIGINAL);
    });
  }

  test("puts back nothing that is not there, and leaves what somebody else wrote", async () => {
    expect(await answer('{"reset":true}')).toEqual({ changed: false });
    await answer('{"servers":["10.0.0.1"],"searchDomains":[]}');
    writeFileSync(path, "nameserver 203.0.113.53\n");
    expect(await answer('{"reset":true}')).toEqual({ changed: false });
    expect(read()).toBe("nameserver 203.0.113.53\n");
  });
});

test("restoreForHelper() puts the helper's file back without the helper", async () => {
  await answer('{"servers":["10.0.0.1"],"searchDomains":[]}');
  expect(read()).not.toBe(ORIGINAL);
  const deps = { exec: new FakeResolvectl(), log: silentLogger, makeRead: () => Promise.resolve(), path };
  expect(await restoreForHelper(deps, signal, stateDir)).toEqual({ file: true, record: false });
  expect(read()).toBe(ORIGINAL);
  expect(await restoreForHelper(deps, signal, stateDir)).toEqual({ file: false, record: false });
});
