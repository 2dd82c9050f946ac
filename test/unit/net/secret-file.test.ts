import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { chmod, mkdir, mkdtemp, readdir, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { utf8, utf8Text } from "../../../src/base/bytes.ts";
import { ensurePrivateDir, readSecretFile, writeSecretFile } from "../../../src/net/secret-file.ts";

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "higgs-secret-"));
});
afterEach(async () => {
  await rm(dir, { recursive: true, force: true });
});

async function codeOf(task: Promise<unknown>): Promise<string> {
  try {
    await task;
    return "done";
  } catch (thrown) {
    return thrown instanceof Error && "code" in thrown ? String(thrown.code) : String(thrown);
  }
}

describe("writeSecretFile()", () => {
  test("makes a file of mode 0600 whatever the umask is, and leaves nothing beside it", async () => {
    const before = process.umask(0);
    try {
      await writeSecretFile(join(dir, "key"), utf8("one"));
    } finally {
      process.umask(before);
    }
    expect((await stat(join(dir, "key"))).mode & 0o777).toBe(0o600);
    await writeSecretFile(join(dir, "key"), utf8("two"));
    expect(utf8Text((await readSecretFile(join(dir, "key"))) ?? new Uint8Array(0))).toBe("two");
    expect(await readdir(dir)).toEqual(["key"]);
  });

  test("replaces a symbolic link rather than write through it", async () => {
    await writeFile(join(dir, "victim"), "untouched");
    await symlink(join(dir, "victim"), join(dir, "key"));
    await writeSecretFile(join(dir, "key"), utf8("secret"));
    expect(await Bun.file(join(dir, "victim")).text()).toBe("untouched");
    expect(await codeOf(readSecretFile(join(dir, "key")))).toBe("done");
  });
});

test("writeSecretFile() leaves the old bytes and nothing else when it cannot write", async () => {
  await writeSecretFile(join(dir, "key"), utf8("one"));
  await mkdir(join(dir, "taken"));
  expect(await codeOf(writeSecretFile(join(dir, "taken"), utf8("two")))).not.toBe("done");
  expect(await codeOf(writeSecretFile(join(dir, "none", "key"), utf8("two")))).toBe("ENOENT");
  expect((await readdir(dir)).sort()).toEqual(["key", "taken"]);
});

describe("readSecretFile()", () => {
  test("says null for a file that is not there", async () => {
    expect(await readSecretFile(join(dir, "none"))).toBeNull();
  });

  test.each([0o644, 0o640, 0o604, 0o660, 0o601])("refuses mode %o and says how to mend it", async (mode) => {
    await writeSecretFile(join(dir, "key"), utf8("x"));
    await chmod(join(dir, "key"), mode);
    const failure: unknown = await readSecretFile(join(dir, "key")).catch((thrown: unknown) => thrown);
    expect(failure).toMatchObject({ code: "file-too-open", remedy: `chmod 600 ${join(dir, "key")}` });
  });

  test("refuses a symbolic link and a folder", async () => {
    await writeSecretFile(join(dir, "key"), utf8("x"));
    await symlink(join(dir, "key"), join(dir, "link"));
    expect(await codeOf(readSecretFile(join(dir, "link")))).toBe("file-not-plain");
    expect(await codeOf(readSecretFile(dir))).toBe("file-not-plain");
  });
});

describe("ensurePrivateDir()", () => {
  test("makes a folder of mode 0700 with its parents, and takes one that is there", async () => {
    const path = join(dir, "a", "b");
    await ensurePrivateDir(path);
    await ensurePrivateDir(path);
    expect((await stat(path)).mode & 0o777).toBe(0o700);
  });

  test("refuses a folder that others may write to, and what is no folder", async () => {
    await mkdir(join(dir, "open"));
    await chmod(join(dir, "open"), 0o777);
    expect(await codeOf(ensurePrivateDir(join(dir, "open")))).toBe("file-too-open");
    await writeFile(join(dir, "file"), "");
    expect(await codeOf(ensurePrivateDir(join(dir, "file")))).not.toBe("done");
  });
});

test("ensurePrivateDir() takes away what a killed process had half written, and nothing else", async () => {
  const child = Bun.spawn(["true"]);
  await child.exited;
  const kept = ["a.json", `a.json.${process.pid}.0123abcd.tmp`, "a.json.1.x.tmp", "b.tmp"];
  for (const name of [...kept, `a.json.${child.pid}.0123abcd.tmp`]) await writeFile(join(dir, name), "");
  await ensurePrivateDir(dir);
  expect((await readdir(dir)).toSorted()).toEqual(kept.toSorted());
});
