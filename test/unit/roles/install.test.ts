// What of a person's settings goes into a service's command line.
import { expect, test } from "bun:test";
import { type AnyRole, resolveConfig } from "../../../src/roles/config.ts";
import { flagsOf } from "../../../src/roles/install.ts";

const NO_FILE = "/nonexistent/higgs.json";
const flags = async (role: AnyRole, given: Readonly<Record<string, unknown>>, env: Record<string, string> = {}) =>
  flagsOf(role, await resolveConfig(role, given, env, NO_FILE));

test("flagsOf() has what was given, each as the command line takes it, and no default", async () => {
  expect(await flags("node", {})).toEqual([]);
  expect(await flags("node", { port: "51820", exit: false, dns: ["https://a/dns-query", "udp://192.0.2.1"] })).toEqual([
    "--port",
    "51820",
    "--no-exit",
    "--dns",
    "https://a/dns-query",
    "udp://192.0.2.1",
  ]);
  expect(await flags("client", { paths: "direct,wss" })).toEqual(["--paths", "direct,wss"]);
  expect(await flags("server", { relayPorts: "41000-41999", public: "vps.example" })).toEqual([
    "--public",
    "vps.example",
    "--relay-ports",
    "41000-41999",
  ]);
});

test("flagsOf() keeps what the environment says, and never an invite", async () => {
  const env = { HIGGS_ENDPOINT: "198.51.100.1:51820", HIGGS_JOIN: "higgs://secret", HIGGS_NAME: "attic" };
  expect(await flags("node", {}, env)).toEqual(["--endpoint", "198.51.100.1:51820"]);
});
