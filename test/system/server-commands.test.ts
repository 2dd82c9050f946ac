// The server's commands, typed at a running server's control sockets; machines join it as people let them.
import { afterAll, beforeAll, expect, test } from "bun:test";
import { rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { freeUdpPort } from "./fake-wireguard.ts";
import { temporaryDir } from "./server-support.ts";

const PROJECT_DIR = join(import.meta.dir, "../..");

let dir = "";
let server: Bun.Subprocess<"ignore", "pipe", "pipe">;

function start(args: readonly string[], folder: string): Bun.Subprocess<"ignore", "pipe", "pipe"> {
  const program = ["--preload", join(PROJECT_DIR, "scripts/preload.ts"), join(PROJECT_DIR, "src/cli/main.ts")];
  return Bun.spawn([process.execPath, ...program, ...args], {
    cwd: dir,
    env: { PATH: process.env["PATH"] ?? "", HIGGS_STATE: join(dir, folder), HIGGS_RUN: join(dir, `${folder}-run`) },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
}

async function higgs(args: readonly string[], folder = "server"): Promise<{ code: number; out: string; err: string }> {
  const child = start(args, folder);
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { code, out, err };
}

async function json(...args: string[]): Promise<Record<string, unknown>> {
  const { code, out, err } = await higgs(["server", ...args, "--json"]);
  expect([code, err]).toEqual([0, ""]);
  return JSON.parse(out) as Record<string, unknown>;
}

function freeTcpPort(): number {
  const listener = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => undefined } });
  const { port } = listener;
  listener.stop(true);
  return port;
}

beforeAll(async () => {
  dir = await temporaryDir();
  const at = `127.0.0.1:${freeTcpPort()}`;
  const stunPort = String(await freeUdpPort());
  const args = ["server", "--listen", at, "--public", at, "--stun-port", stunPort];
  server = start([...args, "--network-range", "192.168.211.0/24", "--log-level", "error"], "server");
  let said = "";
  for await (const chunk of server.stdout) {
    said += new TextDecoder().decode(chunk);
    if (said.includes("higgs server invite node|client")) break;
  }
  if (!said.includes("is running")) throw new Error(`no server: ${said}${await server.stderr.text()}`);
  for (const name of ["anna", "ben"]) {
    const { invite } = (await json("invite", "client")) as { invite: string };
    expect(await higgs(["client", "join", invite, "--name", name], name)).toMatchObject({ code: 0 });
  }
});

afterAll(async () => {
  server.kill("SIGTERM");
  expect(await server.exited).toBe(0);
  await rm(dir, { recursive: true, force: true });
});

async function machine(name: string): Promise<Record<string, unknown> | undefined> {
  const { machines } = (await json("machines")) as { machines: Record<string, unknown>[] };
  return machines.find((one) => one["name"] === name);
}

test("higgs server rename gives another name, and refuses one that is taken and a machine that is none", async () => {
  expect(await higgs(["server", "rename", "anna", "carla"])).toMatchObject({
    code: 0,
    out: '"anna" is "carla" now.\n',
  });
  expect(await machine("carla")).toMatchObject({ role: "client", ipv4: "192.168.211.1" });
  const taken = await higgs(["server", "rename", "carla", "ben"]);
  expect([taken.code, taken.out]).toEqual([1, ""]);
  expect(taken.err).toContain("there is one");
  expect((await higgs(["server", "rename", "anna", "dora"])).err).toContain("higgs server machines");
});

test("higgs server tag sets the tags in place of those before, and takes them away", async () => {
  expect(await higgs(["server", "tag", "ben", "eu", "fast"])).toMatchObject({ code: 0 });
  expect(await machine("ben")).toMatchObject({ tags: ["eu", "fast"] });
  expect(await higgs(["server", "tag", "ben"])).toMatchObject({ code: 0, out: '"ben" has no tags now.\n' });
  expect(await machine("ben")).toMatchObject({ tags: [] });
  expect(await higgs(["server", "tag", "ben", "No Tag"])).toMatchObject({ code: 1, out: "" });
});

test("higgs server audit shows what changed, newest first, and no secret", async () => {
  await higgs(["server", "tag", "ben", "last"]);
  const { schema, entries } = (await json("audit")) as { schema: string; entries: { event: string }[] };
  expect(schema).toBe("higgs.server-audit/1");
  expect(entries[0]).toMatchObject({ event: "machine-tagged" });
  expect(entries.filter(({ event }) => event === "machine-enrolled")).toHaveLength(2);
  expect(((await json("audit", "--limit", "1")) as { entries: unknown[] }).entries).toHaveLength(1);
  const text = await higgs(["server", "audit", "--limit", "100"]);
  expect(text.out).toMatch(/machine-enrolled +name=ben role=client invite=/);
  expect(await higgs(["server", "audit", "--limit", "none"])).toMatchObject({ code: 2, out: "" });
});

test("higgs server sessions shows that there are none", async () => {
  expect(await json("sessions")).toEqual({ schema: "higgs.server-sessions/1", sessions: [] });
  expect(await higgs(["server", "sessions"])).toMatchObject({ code: 0, out: "No sessions.\n" });
});

test("higgs server backup makes a file for its owner alone, relative to where it was typed, and overwrites none", async () => {
  const path = join(dir, "copy.db");
  expect(await higgs(["server", "backup", "copy.db"])).toMatchObject({
    code: 0,
    out: `Copied the database to ${path}.\n`,
  });
  const { mode, size } = await stat(path);
  expect(mode & 0o777).toBe(0o600);
  expect(await Bun.file(path).slice(0, 15).text()).toBe("SQLite format 3");
  const again = await higgs(["server", "backup", path]);
  expect(again).toMatchObject({ code: 1, out: "" });
  expect(again.err).toContain("is there already");
  expect((await stat(path)).size).toBe(size);
  expect((await higgs(["server", "backup", join(dir, "nowhere/copy.db")])).err).toContain("Name a file");
});
