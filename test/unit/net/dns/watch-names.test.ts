// What is noticed of the files that say whom to ask for names.
import { expect, test } from "bun:test";
import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { watchNames } from "../../../../src/net/dns/watch-names.ts";
import { until } from "../../../lab/harness.ts";

async function inFolder(run: (dir: string) => Promise<void>): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), "higgs-names-"));
  try {
    await run(dir);
  } finally {
    rmSync(dir, { recursive: true });
  }
}

/** As most programs do it: a new file takes the old one's name. */
function replace(dir: string, name: string): void {
  writeFileSync(join(dir, ".#new"), "nameserver 192.0.2.1\n");
  renameSync(join(dir, ".#new"), join(dir, name));
}

test("watchNames() tells of a file that is replaced, and nothing after its end", async () => {
  await inFolder(async (dir) => {
    let told = 0;
    const service = watchNames(() => void told++, [{ dir }]);
    replace(dir, "resolv.conf");
    await until(() => told > 0);
    await service[Symbol.asyncDispose]();
    await service[Symbol.asyncDispose]();
    const before = told;
    const control = Promise.withResolvers<void>();
    await using _other = watchNames(control.resolve, [{ dir }]);
    writeFileSync(join(dir, "resolv.conf"), "");
    await control.promise; // whoever still watches has been told by now
    expect(told).toBe(before);
  });
});

test("watchNames() tells of one file alone where the folder has others", async () => {
  await inFolder(async (dir) => {
    let told = 0;
    await using _service = watchNames(() => void told++, [{ dir, file: "resolv.conf" }]);
    const control = Promise.withResolvers<void>();
    await using _all = watchNames(control.resolve, [{ dir }]);
    replace(dir, "resolv.conf.higgs-new");
    await control.promise;
    expect(told).toBe(0);
    replace(dir, "resolv.conf");
    await until(() => told > 0);
  });
});

test("watchNames() does not follow a program that writes without end", async () => {
  await inFolder(async (dir) => {
    let told = 0;
    await using _service = watchNames(() => {
      told++;
      replace(dir, "resolv.conf"); // somebody answers each of ours
    }, [{ dir }]);
    replace(dir, "resolv.conf");
    await until(() => told >= 40);
    const control = Promise.withResolvers<void>();
    await using _all = watchNames(control.resolve, [{ dir }]);
    replace(dir, "resolv.conf");
    await control.promise;
    expect(told).toBeLessThanOrEqual(43); // as many as came back within these seconds
  });
});

test("watchNames() watches nothing where there is no such folder", async () => {
  await watchNames(() => undefined, [{ dir: "/nonexistent/resolve" }])[Symbol.asyncDispose]();
});
