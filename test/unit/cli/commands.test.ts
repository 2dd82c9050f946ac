import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { acquireInstanceLock } from "../../../src/net/single-instance.ts";
import { formatInvite } from "../../../src/proto/invite.ts";
import { NETWORK_KEY } from "../support/keys.ts";

const PROJECT_DIR = join(import.meta.dir, "../../..");
const SECRET = new Uint8Array(32).fill(0x5a);

let dir = "";
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "higgs-cli-"));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

interface Ended {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** The program as a process of its own, with folders that hold nothing. */
async function higgs(
  args: readonly string[],
  more: { env?: Record<string, string>; input?: string } = {},
): Promise<Ended> {
  const child = Bun.spawn([process.execPath, join(PROJECT_DIR, "src/cli/main.ts"), ...args], {
    cwd: PROJECT_DIR,
    env: { PATH: process.env["PATH"] ?? "", HIGGS_STATE: join(dir, "state"), HIGGS_RUN: join(dir, "run"), ...more.env },
    stdin: new Blob([more.input ?? ""]),
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { code, out, err };
}

test("higgs --help shows the commands, and each command's own help", async () => {
  const root = await higgs(["--help"]);
  expect(root.code).toBe(0);
  for (const name of ["server", "node", "client", "ping", "trust", "state", "logs", "config", "demo", "version"]) {
    expect(root.out).toMatch(new RegExp(`^  ${name}\\b`, "m"));
  }
  expect(root.out).not.toContain("lab-service");
  const helps = await Promise.all(
    [
      ["server", "invite"],
      ["node", "join"],
      ["client", "up"],
      ["client", "exit"],
      ["state", "clean"],
    ].map((path) => higgs([...path, "--help"])),
  );
  for (const help of helps) {
    expect([help.code, help.err]).toEqual([0, ""]);
    expect(help.out).toStartWith("Usage: higgs ");
  }
});

test("higgs version says which, for people and for scripts", async () => {
  const [text, json, flag] = await Promise.all([
    higgs(["version"]),
    higgs(["version", "--json"]),
    higgs(["--version"]),
  ]);
  expect(text).toMatchObject({ code: 0, err: "" });
  expect(text.out).toMatch(/^higgs \S+ linux-\S+\n$|^higgs \S+ \S+\n$/);
  const version = JSON.parse(json.out) as { schema: string; version: string };
  expect(version.schema).toBe("higgs.version/1");
  expect(text.out).toContain(version.version);
  expect(flag).toMatchObject({ code: 0, out: `${version.version}\n` });
});

test("what cannot be understood ends with 2, says what, and where help is", async () => {
  const wrong = [
    ["--nonsense"],
    ["nonsense"],
    ["client", "up", "--nonsense"],
    ["server", "invite"],
    ["client", "exit", "use"],
    ["ping"],
  ];
  for (const ended of await Promise.all(wrong.map((args) => higgs(args)))) {
    expect([ended.code, ended.out]).toEqual([2, ""]);
    expect(ended.err).toStartWith("error: ");
    expect(ended.err).toContain("higgs --help");
  }
});

test("a wrong value ends with 2, and names the value and where it came from", async () => {
  const [flag, environment, duration, exit, dns] = await Promise.all([
    higgs(["server", "--stun-port", "70000"]),
    higgs(["server"], { env: { HIGGS_LISTEN: "a b" } }),
    higgs(["client", "up", "--timeout", "soon"]),
    higgs(["client", "up", "--timeout", "2h"]),
    higgs(["node", "--dns", "tls://9.9.9.9:0"]),
  ]);
  for (const ended of [flag, environment, duration, exit, dns]) expect(ended.code).toBe(2);
  expect(flag.err).toContain('"70000" for --stun-port (from flag)');
  expect(environment.err).toContain('"a b" for --listen (from environment)');
  expect(duration.err).toContain('"soon"');
  expect(exit.err).toContain("1 h at most");
  expect(dns.err).toContain('"tls://9.9.9.9:0"');
});

test("asking what is not running ends with 3, and says how to start it", async () => {
  for (const [args, start] of [
    [["server", "status"], "sudo higgs server"],
    [["server", "invite", "node"], "sudo higgs server"],
    [["node", "status", "--json"], "sudo higgs node"],
    [["client", "status"], "sudo higgs client up"],
    [["client", "exit", "list"], "sudo higgs client up"],
    [["ping", "home"], "sudo higgs"],
    [["logs", "--role", "node"], "sudo higgs node"],
  ] as const) {
    const ended = await higgs(args);
    expect([args.join(" "), ended.code, ended.out]).toEqual([args.join(" "), 3, ""]);
    expect(ended.err).toMatch(/is not running on this machine|no .* runs on this machine/);
    expect(ended.err).toContain(start);
  }
});

test("client down of a client that does not run is no failure", async () => {
  expect(await higgs(["client", "down"])).toMatchObject({ code: 0, err: "" });
});

test("starting what has not joined ends with 4, and says how to join", async () => {
  const ended = await higgs(["node"]);
  expect(ended.code).toBe(4);
  expect(ended.err).toContain("higgs node join INVITE");
});

test("an invite is refused with 2 when it is mistyped or for another role, and is never shown", async () => {
  const invite = formatInvite({
    servers: [{ host: "127.0.0.1", port: 1 }],
    network: NETWORK_KEY,
    id: "abcd1234",
    secret: SECRET,
    role: "node",
    name: null,
    tags: [],
  });
  const path = join(dir, "invite");
  await Bun.write(path, `${invite}x`);
  const [typed, piped, file, role] = await Promise.all([
    higgs(["node", "join", `${invite}x`]),
    higgs(["node", "join", "-"], { input: `${invite}x` }),
    higgs(["node", "join", `file:${path}`]),
    higgs(["client", "join", "-"], { input: `${invite}\n` }),
  ]);
  for (const ended of [typed, piped, file]) {
    expect(ended.code).toBe(2);
    expect(ended.err).toContain("Copy the whole line again");
  }
  expect(role.code).toBe(2);
  expect(role.err).toContain("this invite is for a node");
  const payload = invite.slice(invite.indexOf("#") + 1);
  for (const ended of [typed, piped, file, role]) expect(ended.out + ended.err).not.toContain(payload.slice(80, 120));
});

test("joining where no server answers ends with 5, and says so", async () => {
  const gone = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => undefined } });
  const { port } = gone;
  gone.stop(true);
  const invite = formatInvite({
    servers: [{ host: "127.0.0.1", port }],
    network: NETWORK_KEY,
    id: "abcd1234",
    secret: SECRET,
    role: "client",
    name: null,
    tags: [],
  });
  const ended = await higgs(["client", "join", "-"], { input: invite, env: { HIGGS_STATE: join(dir, "unanswered") } });
  expect(ended.code).toBe(5);
  expect(ended.err).toContain(`127.0.0.1:${port}`);
});

test("config show gives each value and where it came from, and no invite", async () => {
  const env = { HIGGS_LOG_LEVEL: "debug", HIGGS_JOIN: "higgs://vps.example:443/#secret" };
  const ended = await higgs(["config", "show", "--role", "client", "--json"], { env });
  const { schema, settings } = JSON.parse(ended.out) as {
    schema: string;
    settings: { flag: string; value: unknown; from: string }[];
  };
  const of = (flag: string) => settings.find((setting) => setting.flag === flag);
  expect([ended.code, schema]).toEqual([0, "higgs.config/1"]);
  expect(of("--log-level")).toEqual({ flag: "--log-level", value: "debug", from: "environment" });
  expect(of("--run")).toMatchObject({ value: join(dir, "run"), from: "environment" });
  expect(of("--wireguard")).toMatchObject({ value: "auto", from: "default" });
  expect(ended.out).not.toContain("secret");
  expect((await higgs(["config", "show", "--role", "gateway"])).code).toBe(2);
});

test("trust list and forget work on the file while nothing runs", async () => {
  const env = { HIGGS_STATE: join(dir, "trust") };
  const list = await higgs(["trust", "list", "--role", "client", "--json"], { env });
  expect(JSON.parse(list.out)).toEqual({ schema: "higgs.trust-list/1", machines: [] });
  const forgotten = await higgs(["trust", "forget", "home", "--role", "client"], { env });
  expect([forgotten.code, forgotten.out]).toEqual([1, ""]);
  expect(forgotten.err).toContain('Cannot forget "home"');
});

test("higgs state clean leaves what runs alone, says so, and fails only when that role was named", async () => {
  const runDir = join(dir, "run-of-the-living");
  await using _lock = await acquireInstanceLock({ runDir, role: "node" });
  const env = { HIGGS_RUN: runDir };
  const all = await higgs(["state", "clean"], { env });
  expect(all).toMatchObject({ code: 0, err: "" });
  expect(all.out.split("\n").slice(0, 3)).toEqual(
    ["server", "node", "client"].map((role) => `${role}: is running: left alone.`),
  );
  const named = await higgs(["state", "clean", "--role", "node"], { env });
  expect(named.code).toBe(1);
  expect(named.err).toContain(`with the pid ${process.pid}`);
});

test("higgs state clean takes a named state folder for that of the role whose journal is in it", async () => {
  const runDir = join(dir, "run-of-a-client");
  await using _lock = await acquireInstanceLock({ runDir, role: "client" });
  const stateDir = join(dir, "state-of-a-client");
  await mkdir(stateDir, { recursive: true });
  await writeFile(join(stateDir, "journal.json"), JSON.stringify({ version: 1, role: "client", undo: [] }));
  const ended = await higgs(["state", "clean", "--state", stateDir], { env: { HIGGS_RUN: runDir } });
  expect([ended.code, ended.out]).toEqual([0, "client: is running: left alone.\n"]);
});
