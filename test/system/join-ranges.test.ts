// What a machine takes for its network's ranges: private prefixes that it has no other way to.
import { afterEach, beforeEach, expect, test } from "bun:test";
import { rm } from "node:fs/promises";
import type { Cidr } from "../../src/base/ip.ts";
import type { ConnectedPrefix } from "../../src/net/links.ts";
import { join } from "../../src/peer/enrol.ts";
import { openStateDir, type StateDir } from "../../src/peer/state-dir.ts";
import { failureOf } from "../unit/support/failure.ts";
import { HostileServer } from "./hostile-server.ts";
import { NEVER } from "./machine-support.ts";
import { startServer, temporaryDir } from "./server-support.ts";

let dir: StateDir;
beforeEach(async () => {
  dir = await openStateDir(await temporaryDir());
});
afterEach(() => rm(dir.path, { recursive: true, force: true }));

function optionsWith(prefixes: readonly ConnectedPrefix[]) {
  const common = { name: "laptop", hostname: "laptop", version: "0.0.0-test", platform: "test" };
  return { role: "client", ...common, prefixes: () => Promise.resolve(prefixes) } as const;
}

const isEnrolled = (): Promise<boolean> => Bun.file(`${dir.path}/enrolment.json`).exists();

test.each([
  [{ range4: "0.0.0.0/0" }],
  [{ range4: "10.0.0.0/8" }],
  [{ range4: "203.0.113.0/24", ipv4: "203.0.113.1" }],
  [{ range4: "100.64.0.0/16", ipv4: "100.64.0.1" }],
  [{ range6: "::/0" }],
  [{ range6: "2001:db8::/48", ipv6: "2001:db8::1" }],
  [{ range4: "fd00:77::/48", range6: "10.77.0.0/16" }],
  [{ ipv4: "10.78.0.1" }],
  [{ ipv6: "fd00:78::1" }],
] as Readonly<Record<string, string>>[][])("join() believes no server that hands out %p", async (enrolment) => {
  await using server = await HostileServer.start({ enrolment });
  const thrown = await failureOf(join(dir, server.invite("client"), optionsWith([]), NEVER));
  expect(thrown).toMatchObject({ name: "ServerUntrusted", code: "server-not-proven" });
  expect(await isEnrolled()).toBe(false);
});

test("join() refuses a range that this machine already has a way to, and the same invite works once it has none", async () => {
  await using server = await startServer();
  const invite = await server.invite({ role: "client" });
  const lan = { interface: "eth0", prefix: "10.0.0.0/8" as Cidr };
  const thrown = await failureOf(join(dir, invite, optionsWith([lan]), NEVER));
  expect(thrown).toMatchObject({ name: "JoinError", code: "range-clash", detail: lan });
  expect(String(thrown)).toMatch(/range 10\.\d+\.0\.0\/16 overlaps 10\.0\.0\.0\/8, which this machine reaches by eth0/);
  expect((thrown as { remedy?: string }).remedy).toContain("higgs server --network-range 172.29.0.0/16");
  expect(await isEnrolled()).toBe(false);

  const other = { interface: "eth0", prefix: "192.168.1.0/24" as Cidr };
  expect((await join(dir, invite, optionsWith([other]), NEVER)).name as string).toBe("laptop");
  expect(await isEnrolled()).toBe(true);
});
