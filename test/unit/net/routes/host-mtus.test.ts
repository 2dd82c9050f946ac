// Sizes of single peers in the main table, over an `ip` that remembers.
import { expect, test } from "bun:test";
import { silentLogger } from "../../../../src/base/log.ts";
import type { Exec } from "../../../../src/net/exec.ts";
import { IDENTIFIERS } from "../../../../src/net/identifiers.ts";
import { hostMtus } from "../../../../src/net/routes/host-mtus.ts";
import { cidr } from "../firewall/exit-policy.ts";

const { signal } = new AbortController();

/** Of the device's routes: the destination, and its size where it has one. */
class FakeRoutes implements Exec {
  readonly families: Readonly<Record<string, Map<string, number | null>>> = {
    "-4": new Map([["10.83.0.0/16", null]]),
    "-6": new Map([["fd83:1:2::/48", null]]),
  };
  batches = 0;

  run(argv: readonly [string, ...string[]], options: { stdin?: string } = {}) {
    const command = argv.join(" ");
    const shown = /^ip -j (-[46]) route show table main dev higgsn0$/.exec(command)?.[1];
    if (shown !== undefined) {
      const routes = [...(this.families[shown] ?? [])].map(([dst, mtu]) => ({
        dst,
        ...(mtu === null ? {} : { metrics: [{ mtu }] }),
      }));
      return Promise.resolve({ code: 0, stdout: JSON.stringify(routes), stderr: "" });
    }
    const routes = this.families[/^ip (-[46]) -batch -$/.exec(command)?.[1] ?? ""];
    if (routes === undefined) throw new Error(`FakeRoutes does not know "${command}".`);
    this.batches++;
    for (const line of (options.stdin ?? "").trim().split("\n")) {
      const known = /^route (replace|del) (\S+) dev higgsn0 table main(?: mtu (\d+))?$/.exec(line);
      if (known?.[2] === undefined) throw new Error(`FakeRoutes does not know "${line}".`);
      if (known[1] === "del") routes.delete(known[2]);
      else routes.set(known[2], Number(known[3]));
    }
    return Promise.resolve({ code: 0, stdout: "", stderr: "" });
  }

  printed(): string {
    return Object.values(this.families)
      .flatMap((routes) => [...routes].map(([dst, mtu]) => `${dst} ${mtu ?? "-"}`))
      .join(", ");
  }
}

test("hostMtus() has a route for each host of another size, changes only what differs, and leaves the rest alone", async () => {
  const routes = new FakeRoutes();
  const mtus = hostMtus({ exec: routes, identifiers: IDENTIFIERS.node, log: silentLogger });
  const before = routes.printed();
  const peer = (n: number, mtu: number) => ({ prefixes: [cidr(`10.83.0.${n}/32`), cidr(`fd83:1:2::${n}/128`)], mtu });
  await mtus.apply(
    [peer(2, 1300), peer(3, 1400), { prefixes: [cidr("0.0.0.0/0"), cidr("10.83.0.0/16")], mtu: 1280 }],
    signal,
  );
  const whole = "10.83.0.0/16 -, 10.83.0.2 1300, 10.83.0.3 1400, fd83:1:2::/48 -, fd83:1:2::2 1300, fd83:1:2::3 1400";
  expect(routes.printed()).toBe(whole);
  await mtus.apply([peer(2, 1300), peer(3, 1400)], signal);
  expect(routes.batches).toBe(2);
  await mtus.apply([peer(3, 1280)], signal);
  expect(routes.printed()).toBe("10.83.0.0/16 -, 10.83.0.3 1280, fd83:1:2::/48 -, fd83:1:2::3 1280");
  await mtus.apply([], signal);
  expect(routes.printed()).toBe(before);
});
