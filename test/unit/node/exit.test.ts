import { afterEach, expect, test } from "bun:test";
import type { Cidr, IpAddress } from "../../../src/base/ip.ts";
import { silentLogger } from "../../../src/base/log.ts";
import { FirewallNotLoaded } from "../../../src/net/firewall/errors.ts";
import { type ExitKept, type ExitPolicy, USUAL_OUTLET } from "../../../src/net/firewall/exit.ts";
import type { Fence } from "../../../src/net/forwarding.ts";
import type { Links } from "../../../src/net/links.ts";
import { type Exit, openExit } from "../../../src/node/exit.ts";
import type { ExitState } from "../../../src/proto/control.ts";
import { failureOf } from "../support/failure.ts";
import { homeLinks } from "./links.ts";

const open: Exit[] = [];
afterEach(async () => {
  for (const exit of open.splice(0)) await exit[Symbol.asyncDispose]();
});

async function until(what: () => boolean): Promise<void> {
  while (!what()) await Bun.sleep(1);
}

/** A home PC whose firewall remembers what it was told. */
class FakeHome {
  readonly done: string[] = [];
  readonly states: (ExitState | null)[] = [];
  policy: ExitPolicy | null = null;
  links: Links = homeLinks;
  missing: string[] = [];
  foreign: string[] = [];
  dns: string | null = null;
  differences: string[] = [];
  /** What stays different however often the rules are loaded. */
  stubborn: string[] = [];
  isLoaded = false;
  /** What a process before this one left. */
  loaded: ExitKept | null = null;
  fence: Fence = { fence4: [], fence6: [] };
  fail: Error | null = null;
  rulesBefore: readonly string[] = [];

  start(options: { readonly offered?: boolean } = {}): Exit {
    const exit = openExit(
      {
        firewall: {
          apply: (policy) => {
            if (this.fail !== null) return Promise.reject(this.fail);
            this.policy = policy;
            this.isLoaded = true;
            this.differences = this.stubborn;
            return this.#did("apply");
          },
          setClients: ({ clients4, clients6 }) => {
            if (!this.isLoaded)
              return Promise.reject(new FirewallNotLoaded("flushed", { code: "firewall-not-loaded" }));
            if (this.policy !== null) this.policy = { ...this.policy, clients4, clients6 };
            return this.#did("clients");
          },
          renewLease: () => this.#did("renew"),
          closeLease: () => this.#did("close"),
          loaded: () => Promise.resolve(this.loaded),
          verify: () => Promise.resolve(this.differences),
          reset: () => this.#did("reset"),
        },
        readLinks: () => Promise.resolve(this.links),
        enableForwarding: ({ uplinks, ipv6 }) => {
          this.done.push(`forward ${uplinks.join()} ${ipv6}`);
          return Promise.resolve(this.missing);
        },
        restoreForwarding: () => this.#did("unforward").then(() => []),
        fence: () => Promise.resolve(this.fence),
        rulesBefore: () => Promise.resolve(this.rulesBefore),
        foreignDrops: () => Promise.resolve(this.foreign),
        probeDns: () => {
          this.done.push("probe");
          return Promise.resolve(this.dns);
        },
        log: silentLogger,
      },
      {
        interface: "higgsn0",
        resolverPort: 5300,
        addresses: ["10.77.0.2" as IpAddress],
        offered: options.offered ?? true,
        outlet: USUAL_OUTLET,
        onChange: (state) => void this.states.push(state),
      },
    );
    open.push(exit);
    return exit;
  }

  #did(what: string): Promise<void> {
    this.done.push(what);
    return Promise.resolve();
  }
}

test("openExit() isolates first, then looks for the way out, then opens the lease and says so", async () => {
  const home = new FakeHome();
  const exit = home.start();
  expect(exit.state?.ready).toBe(false);
  await until(() => exit.state?.ready === true);
  expect(home.done).toEqual(["apply", "forward eth0 true", "probe", "renew"]);
  expect(home.states).toEqual([{ ready: true, ipv6: true, missing: [] }]);
});

test("openExit() with no exit isolates, and forwards nothing", async () => {
  const home = new FakeHome();
  const exit = home.start({ offered: false });
  await exit.isolated;
  expect(home.done).toEqual(["unforward", "apply", "close"]);
  expect(home.policy?.uplinks).toEqual([]);
  expect(exit.state).toBeNull();
  expect(home.states).toEqual([]);
});

test("openExit() closes the lease and says what is missing", async () => {
  const home = new FakeHome();
  home.missing = ["IPv4 forwarding is off and cannot be written."];
  home.foreign = ["Docker drops what is forwarded."];
  home.rulesBefore = ["A routing rule of another program sends everything into wg0."];
  home.dns = "nobody answers.";
  const exit = home.start();
  exit.poke();
  await until(() => home.done.includes("close"));
  expect(home.done).not.toContain("renew");
  await until(() => home.states.length > 0);
  expect(exit.state).toEqual({
    ready: false,
    ipv6: true,
    missing: [...home.missing, ...home.foreign, ...home.rulesBefore, "Names cannot be resolved: nobody answers."],
  });
});

test("bug: an exit that starts over one that was killed closed it until its resolver was there", async () => {
  const home = new FakeHome();
  home.dns = "the resolver is starting.";
  const exit = home.start();
  await until(() => home.states.length > 0);
  expect(home.done).not.toContain("close");
  home.dns = null;
  exit.poke();
  await until(() => exit.state?.ready === true);
  expect(home.done).not.toContain("close");
});

test("openExit() closes at once when the way out goes, and opens when it comes back", async () => {
  const home = new FakeHome();
  const exit = home.start();
  await until(() => exit.state?.ready === true);
  home.links = { ...homeLinks, uplinks: [] };
  exit.poke();
  await until(() => exit.state?.ready === false);
  expect(exit.state?.missing).toEqual(["This machine has no IPv4 default route."]);
  expect(home.done.at(-1)).toBe("close");
  expect(home.policy?.uplinks).toEqual([]);
  home.links = homeLinks;
  exit.poke();
  await until(() => exit.state?.ready === true);
  expect(home.states.map((state) => state?.ready)).toEqual([true, false, true]);
});

test("openExit() offers IPv4 alone where the home has no IPv6", async () => {
  const home = new FakeHome();
  home.links = { ...homeLinks, uplinks: homeLinks.uplinks.filter((uplink) => uplink.family === 4) };
  const exit = home.start();
  await until(() => exit.state?.ready === true);
  expect(exit.state).toEqual({ ready: true, ipv6: false, missing: [] });
  expect(home.done).toContain("forward eth0 false");
});

test("setClients() changes only the clients; a new public address makes a whole new ruleset", async () => {
  const home = new FakeHome();
  const exit = home.start();
  await until(() => exit.state?.ready === true);
  home.done.length = 0;
  exit.setClients(["10.77.0.9" as IpAddress]);
  await until(() => home.done.includes("renew"));
  expect(home.done.filter((what) => what === "apply" || what === "clients")).toEqual(["clients"]);
  expect(home.policy?.clients4).toEqual(["10.77.0.9" as IpAddress]);
  home.done.length = 0;
  exit.setPublicAddresses(["198.51.100.7" as IpAddress, "198.51.100.8" as IpAddress]);
  await until(() => home.done.includes("renew"));
  expect(home.done.filter((what) => what === "apply" || what === "clients")).toEqual(["apply"]);
  expect(home.policy?.clients4).toEqual(["10.77.0.9" as IpAddress]);
  expect(home.policy?.here4.map(String)).toContain("198.51.100.7/32");
  expect(home.policy?.here4.map(String)).toContain("198.51.100.8/32");
});

test("openExit() puts back a firewall that others changed", async () => {
  const home = new FakeHome();
  const exit = home.start();
  await until(() => exit.state?.ready === true);
  home.done.length = 0;
  home.differences = ["the chain forward is gone."];
  exit.poke();
  await until(() => home.done.includes("renew"));
  expect(home.done[0]).toBe("apply");
  expect(exit.state?.ready).toBe(true);
});

test("a flush of the rules and a change of clients: the next pass loads all of it again", async () => {
  const home = new FakeHome();
  const exit = home.start();
  await until(() => exit.state?.ready === true);
  home.isLoaded = false;
  exit.setClients(["10.77.0.9" as IpAddress]);
  await until(() => exit.state?.ready === false);
  exit.poke();
  await until(() => exit.state?.ready === true);
  expect(home.policy?.clients4).toEqual(["10.77.0.9" as IpAddress]);
  expect(home.isLoaded).toBe(true);
});

test("a look at the rules mends what differs, and otherwise does nothing", async () => {
  const home = new FakeHome();
  const exit = home.start();
  await until(() => exit.state?.ready === true);
  home.done.length = 0;
  home.differences = ["the chain forward is gone."];
  exit.rulesTouched();
  await until(() => home.done.includes("renew"));
  expect(home.done).toEqual(["apply", "forward eth0 true", "renew"]);
  exit.rulesTouched();
  await exit[Symbol.asyncDispose]();
  expect(home.done).toEqual(["apply", "forward eth0 true", "renew"]);
});

test("rules that stay otherwise than wanted are no isolation, and are told of without an exit too", async () => {
  for (const offered of [true, false]) {
    const home = new FakeHome();
    home.stubborn = ["the chain forward is gone."];
    const exit = home.start({ offered });
    expect(await failureOf(exit.isolated)).toMatchObject({ code: "not-isolated" });
    expect(exit.breaches).toEqual(home.stubborn);
    home.stubborn = [];
    exit.poke();
    await until(() => exit.breaches.length === 0);
  }
});

test("a node that starts again keeps the loaded table's clients and its router's address until it knows better", async () => {
  const home = new FakeHome();
  home.loaded = { clients4: ["10.77.0.9" as IpAddress], clients6: [], here: ["198.51.100.7/32" as Cidr] };
  const exit = home.start();
  await until(() => exit.state?.ready === true);
  expect(home.policy?.clients4).toEqual(["10.77.0.9" as IpAddress]);
  expect(home.policy?.here4.map(String)).toContain("198.51.100.7/32");
  exit.setClients([]);
  await until(() => home.done.includes("clients"));
  expect(home.policy?.clients4).toEqual([]);
  exit.setPublicAddresses([]);
  await until(() => home.policy?.here4.map(String).includes("198.51.100.7/32") === false);
});

test("a home that forwards for us alone is fenced, with a way out that came later", async () => {
  const home = new FakeHome();
  home.fence = { fence4: ["wlan0"], fence6: [] };
  const exit = home.start();
  await until(() => exit.state?.ready === true);
  expect(home.policy?.fence4).toEqual(["eth0", "wlan0"]);
  expect(home.policy?.fence6).toEqual([]);
});

test("openExit() asks for names again only while they could not be resolved", async () => {
  const home = new FakeHome();
  home.dns = "nobody answers.";
  const exit = home.start();
  await until(() => home.states.length === 1);
  home.dns = null;
  exit.poke();
  await until(() => exit.state?.ready === true);
  const probes = () => home.done.filter((what) => what === "probe").length;
  expect(probes()).toBe(2);
  exit.poke();
  await until(() => home.done.filter((what) => what === "renew").length === 2);
  expect(probes()).toBe(2);
});

test("openExit() is not isolated when the firewall could not be set, and says why", async () => {
  const home = new FakeHome();
  home.fail = new Error("nft is missing");
  const exit = home.start();
  expect(await failureOf(exit.isolated)).toBe(home.fail);
  expect(exit.state).toEqual({ ready: false, ipv6: false, missing: ["nft is missing"] });
  expect(home.done).toEqual([]);
});

test("openExit() says no more than eight things, each in no more than 300 characters", async () => {
  const home = new FakeHome();
  home.missing = Array.from({ length: 20 }, (_, i) => `${i} ${"x".repeat(1000)}`);
  const exit = home.start();
  await until(() => home.states.length === 1);
  expect(exit.state?.missing).toHaveLength(8);
  for (const text of exit.state?.missing ?? []) expect(text.length).toBe(300);
});

test("an exit that was disposed of does nothing more, and leaves the isolation", async () => {
  const home = new FakeHome();
  const exit = home.start();
  await until(() => exit.state?.ready === true);
  await exit[Symbol.asyncDispose]();
  const before = [...home.done];
  exit.poke();
  exit.setClients(["10.77.0.9" as IpAddress]);
  await Bun.sleep(80); // longer than what it waits for a burst to end
  expect(home.done).toEqual(before);
  expect(home.done).not.toContain("reset");
});

test("openExit() looks again as soon as others' rules close it or let it pass, and not when nothing of that changed", async () => {
  const home = new FakeHome();
  const exit = home.start();
  await until(() => exit.state?.ready === true);
  home.foreign = ['The chain "FORWARD" drops what this machine forwards.'];
  exit.rulesTouched();
  await until(() => exit.state?.ready === false);
  expect(exit.state?.missing).toEqual(home.foreign);
  const passes = home.done.filter((what) => what === "close").length;
  exit.rulesTouched();
  exit.rulesTouched();
  await Bun.sleep(20);
  expect(home.done.filter((what) => what === "close")).toHaveLength(passes);
  home.foreign = [];
  exit.rulesTouched();
  await until(() => exit.state?.ready === true);
});
