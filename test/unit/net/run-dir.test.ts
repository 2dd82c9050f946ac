// The run folder and its socket, given to a group.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdir, mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { callLocal, serveLocal } from "../../../src/net/local-api.ts";
import { groupIdIn, makeRunDir } from "../../../src/net/run-dir.ts";

/** Root gives files to whomever it likes; anybody else to a group of their own. */
const GROUP = process.getuid?.() === 0 ? 54_321 : (process.getgid?.() ?? 0);

let dir = "";
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "higgs-run-"));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

async function factsOf(path: string): Promise<{ group: number; mode: number }> {
  const { gid, mode } = await stat(path);
  return { group: gid, mode: mode & 0o777 };
}

test("groupIdIn() finds the group itself, not one whose name begins so, nor a member", () => {
  const text = "root:x:0:\nhiggsworth:x:7:\nusers:x:100:higgs\nhiggs:x:998:anna,ben\n";
  expect(groupIdIn(text, "higgs")).toBe(998);
  expect(groupIdIn("users:x:100:higgs\nhiggs:x:\n", "higgs")).toBeNull();
  expect(groupIdIn("", "higgs")).toBeNull();
});

describe("makeRunDir()", () => {
  test("lets the group into higgs and the role's folder, also into those that were there before the group was", async () => {
    const runDir = join(dir, "higgs/node");
    await makeRunDir(runDir, null);
    expect((await factsOf(runDir)).mode).toBe(0o750);
    await makeRunDir(runDir, GROUP);
    for (const path of [runDir, join(dir, "higgs")]) expect(await factsOf(path)).toEqual({ group: GROUP, mode: 0o750 });
  });

  test("leaves a folder alone that a person made and named", async () => {
    const runDir = join(dir, "mine");
    await mkdir(runDir);
    const before = await factsOf(runDir);
    await makeRunDir(runDir, GROUP);
    expect(await factsOf(runDir)).toEqual(before);
  });
});

test("serveLocal() gives the everyday socket to the group, and the admin socket to nobody", async () => {
  const [path, adminPath] = [join(dir, "higgs.sock"), join(dir, "admin.sock")];
  await using _everyday = await serveLocal({ hello: () => ({ ok: true }) }, { path, mode: 0o660, groupId: GROUP });
  await using _admin = await serveLocal({}, { path: adminPath, mode: 0o600, groupId: null });
  expect(await factsOf(path)).toEqual({ group: GROUP, mode: 0o660 });
  expect(await factsOf(adminPath)).toMatchObject({ mode: 0o600 });
  expect(await callLocal(path, "hello")).toEqual({ ok: true });
});
