import { expect, test } from "bun:test";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLogger } from "../../../src/base/log.ts";
import { openBlockList, parseBlockList } from "../../../src/node/dns-block-list.ts";
import { failureOf } from "../support/failure.ts";

const LIST = `# a list of hosts
127.0.0.1 localhost localhost.localdomain
::1 localhost
0.0.0.0 ads.example tracker.example # two
0.0.0.0\tTabbed.Example
192.168.1.5 nas.example
! a list of domains
bad.example
*.worse.example
||worst.example^
||not.a.domain^$third-party
com
/regex/
1.2.3.4
`;

test("parseBlockList() reads lists of hosts, of domains and of filters, and passes over the rest", () => {
  const { hosts, domains, isCut } = parseBlockList(LIST);
  expect([...hosts]).toEqual(["ads.example", "tracker.example", "tabbed.example"]);
  expect([...domains]).toEqual(["bad.example", "worse.example", "worst.example"]);
  expect(isCut).toBe(false);
});

test("parseBlockList() stops at its limit", () => {
  const text = Array.from({ length: 100 }, (_, i) => `n${i}.example`).join("\n");
  const { domains, isCut } = parseBlockList(text, 10);
  expect([domains.size, isCut]).toEqual([10, true]);
});

test("openBlockList() blocks hosts alone and domains with all below, and follows its files", async () => {
  const dir = await mkdtemp(join(tmpdir(), "higgs-block-"));
  try {
    const path = join(dir, "list");
    await writeFile(path, LIST);
    const list = await openBlockList([path], silentLogger);
    const blocked = (...names: readonly string[]) => names.filter((name) => list.has(name));
    expect(
      blocked("ads.example", "x.ads.example", "bad.example", "x.y.bad.example", "notbad.example", "example"),
    ).toEqual(["ads.example", "bad.example", "x.y.bad.example"]);
    await writeFile(path, "other.example\n");
    await list.refresh();
    expect(blocked("ads.example", "bad.example", "other.example")).toEqual(["other.example"]);
    await rm(path);
    await list.refresh(); // what was read last holds
    expect(blocked("other.example")).toEqual(["other.example"]);
    expect(await failureOf(openBlockList([path], silentLogger))).toMatchObject({
      code: "bad-setting",
      message: expect.stringContaining(path) as unknown,
    });
  } finally {
    await rm(dir, { recursive: true });
  }
});
