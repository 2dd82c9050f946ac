import { expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { configFilePath, environmentName, resolveConfig, settingsOf, UsageError } from "../../../src/roles/config.ts";
import { failureOf } from "../support/failure.ts";

test("resolveConfig() takes the flag before the environment, and the environment before the default", async () => {
  const flags = { stunPort: "1000" };
  const env = { HIGGS_STUN_PORT: "2000", HIGGS_LOG_LEVEL: "debug", HIGGS_LISTEN: "" };
  const { config, sources } = await resolveConfig("server", flags, env);
  expect([config.stunPort, config.logLevel, config.listen]).toEqual([1000, "debug", "[::]:443"]);
  expect([sources["stunPort"], sources["logLevel"], sources["listen"]]).toEqual(["flag", "environment", "default"]);
});

test("resolveConfig() gives a frozen value, with a folder of its own for each role", async () => {
  for (const role of ["server", "node", "client"] as const) {
    const { config } = await resolveConfig(role, {}, {});
    expect(Object.isFrozen(config)).toBe(true);
    expect([config.state, config.run]).toEqual([`/var/lib/higgs/${role}`, `/run/higgs/${role}`]);
    expect(configFilePath(role)).toBe(`/etc/higgs/${role}.json`);
  }
});

test("resolveConfig() names the value that it cannot use, and where it came from", async () => {
  for (const [role, flags, env, words] of [
    ["server", { stunPort: "70000" }, {}, ['"70000"', "--stun-port", "flag"]],
    ["server", {}, { HIGGS_STUN_PORT: "x" }, ['"x"', "--stun-port", "environment"]],
    ["server", { listen: "a b" }, {}, ['"a b"', "--listen", "HOST"]],
    ["server", { networkRange: "10.0.0.0/99" }, {}, ['"10.0.0.0/99"', "--network-range"]],
    ["server", { tls: "maybe" }, {}, ['"maybe"', "--tls"]],
    ["node", { logLevel: "loud" }, {}, ['"loud"', "--log-level"]],
    ["node", { port: "0" }, {}, ['"0"', "--port"]],
    ["node", { wireguard: "mine" }, {}, ['"mine"', "--wireguard"]],
    ["client", {}, { HIGGS_LOG_FORMAT: "xml" }, ['"xml"', "--log-format", "environment"]],
  ] as const) {
    const thrown = await failureOf(resolveConfig(role, flags, env));
    expect(thrown).toBeInstanceOf(UsageError);
    expect(thrown).toMatchObject({ code: "bad-setting" });
    for (const word of words) expect(String(thrown)).toContain(word);
  }
});

test("resolveConfig() reads a switch, a list and a number from the environment", async () => {
  const dns = "https://dns.example/dns-query,udp://192.168.1.1";
  const on = await resolveConfig("node", {}, { HIGGS_NO_EXIT: "1", HIGGS_DNS: dns, HIGGS_PORT: "51820" });
  expect(on.config.exit).toBe(false);
  expect(on.config.dns).toEqual(["https://dns.example/dns-query", "udp://192.168.1.1"]);
  expect(on.config.port).toBe(51_820);
  for (const [text, exit] of [
    ["0", true],
    ["false", true],
    ["yes", false],
    ["true", false],
  ] as const) {
    expect((await resolveConfig("node", {}, { HIGGS_NO_EXIT: text })).config.exit).toBe(exit);
  }
  expect((await resolveConfig("node", { exit: false }, { HIGGS_NO_EXIT: "0" })).config.exit).toBe(false);
  expect(await failureOf(resolveConfig("node", {}, { HIGGS_NO_EXIT: "maybe" }))).toMatchObject({ code: "bad-setting" });
});

test("environmentName() is made from the flag alone", () => {
  expect(environmentName("--stun-port <n>")).toBe("HIGGS_STUN_PORT");
  expect(environmentName("--no-exit")).toBe("HIGGS_NO_EXIT");
});

test("settingsOf() has a flag, a line of help and a sound default for each setting", () => {
  for (const role of ["server", "node", "client"] as const) {
    const settings = Object.entries(settingsOf(role));
    const names = settings.map(([, setting]) => environmentName(setting.flags));
    expect(new Set(names).size).toBe(names.length);
    for (const [key, setting] of settings) {
      expect([key, setting.about === "", setting.schema.safeParse(setting.default).success]).toEqual([
        key,
        false,
        true,
      ]);
    }
  }
});

test("resolveConfig() takes the environment before the file, and the file before the default", async () => {
  await using file = await settingsFile('{ "stun-port": 3000, "log-level": "warn", "trusted-proxy": ["10.0.0.1"] }');
  const env = { HIGGS_LOG_LEVEL: "debug" };
  const { config, sources } = await resolveConfig("server", {}, env, file.path);
  expect([config.stunPort, config.logLevel, config.trustedProxy, config.tls]).toEqual([
    3000,
    "debug",
    ["10.0.0.1"],
    "self",
  ]);
  expect([sources["stunPort"], sources["logLevel"], sources["tls"]]).toEqual(["file", "environment", "default"]);
  await using node = await settingsFile('{ "no-exit": true }');
  expect((await resolveConfig("node", {}, {}, node.path)).config.exit).toBe(false);
});

test("resolveConfig() names the file that it cannot use, and the value in it", async () => {
  for (const content of ["", "{", "[]", "null", '"text"']) {
    await using file = await settingsFile(content);
    const thrown = await failureOf(resolveConfig("server", {}, {}, file.path));
    expect(thrown).toMatchObject({ code: "bad-setting", remedy: "Mend it, or take it away." });
    expect(String(thrown)).toContain(file.path);
  }
  await using file = await settingsFile('{ "stun-port": "many" }');
  const thrown = await failureOf(resolveConfig("server", {}, {}, file.path));
  expect(String(thrown)).toContain('"many" for --stun-port (from file)');
});

async function settingsFile(content: string): Promise<{ readonly path: string } & AsyncDisposable> {
  const dir = await mkdtemp(join(tmpdir(), "higgs-config-"));
  const path = join(dir, "server.json");
  await Bun.write(path, content);
  return { path, [Symbol.asyncDispose]: () => rm(dir, { recursive: true, force: true }) };
}
