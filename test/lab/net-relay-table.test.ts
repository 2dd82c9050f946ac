// The UDP relay on real hosts, by the kernel's tables and by the process: the same sentences for both.
// long because the same sentences hold for the kernel and the process, one beside the other on one set of hosts
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { parseEndpoint } from "../../src/base/ip.ts";
import { RELAY_TABLE } from "../../src/net/relay-table.ts";
import { bindingRequest, encodeStun } from "../../src/proto/stun.ts";
import { until } from "./harness.ts";
import { type Actor, type RelayLab, type RelayStatus, startRelayLab } from "./relay-actor.ts";

const MINUTE = 60_000;
const [LEFT, RIGHT] = ["10.0.0.2", "10.0.0.3"];
const WG = 51_820;
/** Transport data; what follows the header is the test's own. */
const packet = (tag: string): string => `04000000${Buffer.from(tag.padEnd(28, ".")).toString("hex")}`;

let relayLab: RelayLab;
let left: Actor;
let right: Actor;
let stranger: Actor;

beforeAll(async () => {
  relayLab = await startRelayLab();
  [left, right, stranger] = await Promise.all([
    relayLab.actor("left", "end", "0"),
    relayLab.actor("right", "end", "1"),
    relayLab.actor("stranger", "end", "0"),
  ]);
}, MINUTE);

afterAll(async () => {
  await relayLab?.[Symbol.asyncDispose]();
});

interface Heard {
  readonly from: string;
  readonly hex: string;
}

/** Everything that an actor has received since it was asked last, gathered until `done` says so. */
async function heard(actor: Actor, done: (all: readonly Heard[]) => boolean, what: string): Promise<readonly Heard[]> {
  const all: Heard[] = [];
  await until(
    async () => {
      all.push(...((await actor.ask({ do: "received" })) as Heard[]));
      return done(all);
    },
    { what },
  );
  return all;
}

const hears = (actor: Actor, hex: string) =>
  heard(actor, (all) => all.some((one) => one.hex === hex), `"${Buffer.from(hex.slice(8), "hex").toString()}" arrives`);

interface Scene {
  readonly server: Actor;
  readonly session: number;
  readonly port: number;
  readonly v6: number;
}

let sessions = 100;

async function openSession(server: Actor): Promise<Scene> {
  const session = ++sessions;
  const texts = (await server.ask({ do: "open", session })) as string[];
  const port = parseEndpoint(texts[0] ?? "")?.port ?? 0;
  expect(texts).toEqual([`10.0.0.1:${port}`, `[2001:db8::1]:${port}`]);
  return { server, session, port, v6: port };
}

const SERVER = { 4: "10.0.0.1", 6: "2001:db8::1" } as const;
type Family = 4 | 6;

async function latch(scene: Scene, actor: Actor, options: { fromPort?: number; family?: Family } = {}): Promise<void> {
  const { fromPort = WG, family = 4 } = options;
  await actor.ask({ do: "ask", session: scene.session, fromPort, to: SERVER[family], port: scene.port });
}

async function send(actor: Actor, scene: Scene, tag: string, options: { fromPort?: number; family?: Family } = {}) {
  const { fromPort = WG, family = 4 } = options;
  await actor.ask({ do: "send", hex: packet(tag), fromPort, to: SERVER[family], port: scene.port });
}

/** Both ends are latched, and a packet got through each way: the positive control of whatever follows. */
async function link(scene: Scene, family: Family = 4): Promise<void> {
  await through(scene, left, right, { family, latching: true });
  await through(scene, right, left, { family });
}

/** Sends until one arrives, as nothing says when a rule is in place; each packet has its own text. Ends ask again, too. */
async function through(
  scene: Scene,
  from: Actor,
  to: Actor,
  options: { family?: Family; latching?: boolean } = {},
): Promise<Heard> {
  const { family = 4 } = options;
  let n = 0;
  const tag = `t${++sent}-`;
  const all: Heard[] = [];
  const prefix = packet(tag).slice(0, 8 + tag.length * 2);
  return await until(
    async () => {
      if (options.latching === true) await Promise.all([from, to].map((end) => latch(scene, end, { family })));
      await send(from, scene, `${tag}${n++}`, { family });
      all.push(...((await to.ask({ do: "received" })) as Heard[]));
      return all.find((one) => one.hex.startsWith(prefix));
    },
    { what: "a packet gets through", everyMs: 50 },
  );
}

let sent = 0;

/** Of an IPv4 packet without options. */
const IP_AND_UDP_BYTES = 28;

/** As nft lists them: who may send to the session's port. */
async function leasesOf(scene: Scene): Promise<readonly string[]> {
  const text = await relayLab.lab.host("server").execOrThrow(["nft", "list", "set", "ip", RELAY_TABLE, "lease"]);
  return [...text.matchAll(/([\d.]+ \. \d+) \. (\d+) counter/g)].flatMap(([, from, port]) =>
    Number(port) === scene.port ? [from ?? ""] : [],
  );
}

/** The flows to the session's port that conntrack knows, by where they come from. */
async function trackedOf(scene: Scene): Promise<readonly string[]> {
  const text = await relayLab.lab.host("server").execOrThrow(["conntrack", "-L", "-p", "udp"]);
  const flows = text.matchAll(/src=(\S+) dst=10\.0\.0\.1 sport=(\d+) dport=(\d+)/g);
  return [...flows].flatMap(([, from, sport, dport]) => (Number(dport) === scene.port ? [`${from} ${sport}`] : []));
}

const status = async (scene: Scene) => (await scene.server.ask({ do: "status" })) as RelayStatus;

/** Nothing of it arrived, although what was sent after it, by a way that is open, did. */
async function silence(scene: Scene, tag: string): Promise<void> {
  const mark = `after ${tag}`;
  await send(left, scene, mark);
  const all = await hears(right, packet(mark));
  expect(all.map((one) => one.hex)).not.toContain(packet(tag));
}

for (const how of ["kernel", "process"] as const) {
  describe(`the relay of a session, by the ${how}`, () => {
    let server: Actor;

    beforeAll(async () => {
      server = await relayLab.actor("server", "server", `${how},10.0.0.1,2001:db8::1`);
    }, MINUTE);

    afterAll(async () => {
      await server[Symbol.asyncDispose]();
      await relayLab.lab.host("server").exec(["nft", "flush", "ruleset"]);
    });

    test.each([4, 6] as const)(
      "carries packets both ways over IPv%i, from the server's own address and port",
      async (family) => {
        const scene = await openSession(server);
        await link(scene, family);
        const before = (await status(scene)).forwarded;
        expect((await through(scene, left, right, { family })).from).toBe(`${SERVER[family]} ${scene.port}`);
        expect((await through(scene, right, left, { family })).from).toBe(`${SERVER[family]} ${scene.port}`);
        const after = await status(scene);
        expect(after.kernel).toBe(how === "kernel");
        // By the kernel, the process does not even wake.
        if (how === "kernel") expect(after.forwarded).toBe(before);
        else expect(after.forwarded).toBeGreaterThanOrEqual(before + 2);
        expect(after.bytes).toBeGreaterThan(0);
        await server.ask({ do: "close", session: scene.session });
      },
      MINUTE,
    );

    test(
      "carries packets between ends of two families",
      async () => {
        const scene = await openSession(server);
        await latch(scene, left, { family: 4 });
        await latch(scene, right, { family: 6 });
        let n = 0;
        await until(
          async () => {
            await send(left, scene, `mixed ${n++}`);
            const all = (await right.ask({ do: "received" })) as Heard[];
            return all.some(({ from, hex }) => from === `2001:db8::1 ${scene.port}` && hex.startsWith("04000000"));
          },
          { what: "a packet changes the family" },
        );
        await server.ask({ do: "close", session: scene.session });
      },
      MINUTE,
    );

    test(
      "drops what comes before an end is latched",
      async () => {
        const scene = await openSession(server);
        await latch(scene, right);
        await send(left, scene, "too early");
        await link(scene);
        await silence(scene, "too early");
      },
      MINUTE,
    );

    test(
      "drops what comes from another address or another port, and what is no WireGuard",
      async () => {
        const scene = await openSession(server);
        await link(scene);
        await send(stranger, scene, "from a stranger");
        await send(left, scene, "from another port", { fromPort: 6000 });
        const http = Buffer.from("GET / HTTP/1.1\r\nHost: somewhere.example\r\n\r\n").toString("hex");
        await left.ask({ do: "send", hex: http, fromPort: WG, to: SERVER[4], port: scene.port });
        await send(left, scene, "the last");
        const texts = (await hears(right, packet("the last"))).map((one) => one.hex);
        expect(texts).not.toContain(packet("from a stranger"));
        expect(texts).not.toContain(packet("from another port"));
        expect(texts).not.toContain(http);
      },
      MINUTE,
    );

    test(
      "latches nobody who does not answer a challenge, or has no key",
      async () => {
        const scene = await openSession(server);
        await left.ask({ do: "mute", mute: true });
        await latch(scene, left);
        await latch(scene, right);
        await hears(left, "challenge");
        await stranger.ask({
          do: "ask",
          session: scene.session,
          fromPort: WG,
          to: SERVER[4],
          port: scene.port,
          forged: true,
        });
        await send(left, scene, "without an answer");
        await send(stranger, scene, "without a key");
        await until(async () => (await status(scene)).stun.forged > 0, { what: "the forged request is counted" });
        await left.ask({ do: "mute", mute: false });
        await link(scene);
        await silence(scene, "without an answer");
        await silence(scene, "without a key");
      },
      MINUTE,
    );

    test(
      "brings STUN to the server while the session is relayed, and a check of one end to the other",
      async () => {
        const scene = await openSession(server);
        await link(scene);
        await latch(scene, left);
        // The answer of the relay itself: a success for the request that was just sent.
        await heard(left, (all) => all.some((one) => one.hex.startsWith("0101")), "the relay answers");
        const check = encodeStun(
          bindingRequest(crypto.getRandomValues(new Uint8Array(12)), [{ type: "username", text: "x" }]),
          {
            integrityKey: new Uint8Array(32).fill(7),
            sizeBytes: 1452,
          },
        ).toHex();
        await left.ask({ do: "send", hex: check, fromPort: WG, to: SERVER[4], port: scene.port });
        const [found] = (await hears(right, check)).filter((one) => one.hex === check);
        expect(found?.from).toBe(`${SERVER[4]} ${scene.port}`);
      },
      MINUTE,
    );

    test(
      "follows an end to another port, and leaves the old one",
      async () => {
        const scene = await openSession(server);
        await link(scene);
        const fromPort = 6001;
        // The old address is silent from now on, as after a router's reboot.
        await relayLab.lab.host("left").execOrThrow(["nft", "-f", "-"], {
          stdin: `table ip lost {\n chain lost {\n type filter hook input priority -400\n udp dport ${WG} drop\n }\n}\n`,
        });
        let n = 0;
        await until(
          async () => {
            await latch(scene, left, { fromPort });
            await send(left, scene, `moved ${n++}`, { fromPort });
            const all = (await right.ask({ do: "received" })) as Heard[];
            return all.some((one) => Buffer.from(one.hex, "hex").includes("moved"));
          },
          { what: "the moved end gets through", everyMs: 100 },
        );
        await relayLab.lab.host("left").execOrThrow(["nft", "delete", "table", "ip", "lost"]);
        await send(right, scene, "to the new place");
        await hears(left, packet("to the new place"));
        if (how === "kernel") {
          expect(await leasesOf(scene)).not.toContain(`${LEFT} . ${WG}`);
          const gone = async () => !(await trackedOf(scene)).includes(`${LEFT} ${WG}`);
          await until(gone, { what: "conntrack forgets the old place" });
          expect(await trackedOf(scene)).toContain(`${RIGHT} ${WG}`);
        }
        await send(left, scene, "from the old place");
        await send(left, scene, "from the new place", { fromPort });
        const all = await hears(right, packet("from the new place"));
        expect(all.map((one) => one.hex)).not.toContain(packet("from the old place"));
        await server.ask({ do: "close", session: scene.session });
      },
      MINUTE,
    );

    test(
      "carries nothing while a session is withheld, and goes on when it is given back",
      async () => {
        const [other, scene] = [await openSession(server), await openSession(server)];
        await link(other);
        await link(scene);
        // The control of what follows.
        if (how === "kernel") await until(async () => (await leasesOf(scene)).length === 2, { what: "the leases" });
        await server.ask({ do: "withhold", session: scene.session, withhold: true });
        if (how === "kernel") await until(async () => (await leasesOf(scene)).length === 0, { what: "the leases end" });
        const tags = Array.from({ length: 3 }, (_, i) => `withheld ${i}`);
        for (const tag of tags) await send(left, scene, tag);
        await send(left, other, "of another session");
        const texts = (await hears(right, packet("of another session"))).map((one) => one.hex);
        expect(texts).not.toContain(packet(tags[2] ?? ""));
        await server.ask({ do: "withhold", session: scene.session, withhold: false });
        await through(scene, left, right);
        for (const { session } of [other, scene]) await server.ask({ do: "close", session });
      },
      MINUTE,
    );

    test(
      "counts the bytes of what it carried, each once, to the last before the end",
      async () => {
        const scene = await openSession(server);
        await link(scene);
        const before = await status(scene);
        const one = packet("counted").length / 2;
        for (let i = 0; i < 10; i++) await send(left, scene, "counted");
        await send(right, scene, "the eleventh");
        await hears(left, packet("the eleventh"));
        const after = await status(scene);
        expect([after.bytes - before.bytes, after.metered - before.metered]).toEqual([11 * one, 11 * one]);
        await send(left, scene, "just before the end");
        await hears(right, packet("just before the end"));
        await server.ask({ do: "close", session: scene.session });
        await until(async () => (await status(scene)).metered - after.metered === one, { what: "the last one counts" });
      },
      MINUTE,
    );

    test(
      "is not moved by what a stranger sends again, and sends it nothing but a challenge",
      async () => {
        const scene = await openSession(server);
        await using sniffer = await relayLab.lab.host("left").sniff("eth0", `udp and port ${scene.port}`);
        await link(scene);
        const said = await until(() => {
          const all = sniffer
            .packets()
            .filter(({ text }) => text.startsWith(`udp ${LEFT}:${WG} > ${SERVER[4]}:${scene.port}`));
          return all.length > 0 ? all : null;
        });
        // All that the left end said to be latched, and a packet, byte for byte from another address.
        for (const { ip } of said) {
          const hex = ip.subarray(IP_AND_UDP_BYTES).toHex();
          await stranger.ask({ do: "send", hex, fromPort: WG, to: SERVER[4], port: scene.port });
        }
        await through(scene, right, left);
        await through(scene, left, right);
        const got = (await stranger.ask({ do: "received" })) as Heard[];
        expect(got.filter((one) => one.hex.startsWith("04"))).toEqual([]);
        await server.ask({ do: "close", session: scene.session });
      },
      MINUTE,
    );

    test(
      "carries nothing of a session that has ended",
      async () => {
        const other = await openSession(server);
        const scene = await openSession(server);
        await link(scene);
        // The control of what follows.
        if (how === "kernel")
          await until(async () => (await trackedOf(scene)).length > 0, { what: "the session's flows" });
        await server.ask({ do: "close", session: scene.session });
        if (how === "kernel") {
          await until(async () => (await trackedOf(scene)).length === 0, { what: "conntrack forgets the session" });
          expect(await leasesOf(scene)).toEqual([]);
        }
        await link(other);
        await send(left, scene, "after the end");
        await silence(other, "after the end");
      },
      MINUTE,
    );
  });
}

describe("the kernel's tables", () => {
  const host = () => relayLab.lab.host("server");

  test(
    "a lease that runs out is silence, though conntrack knows the flow; and a dead server's session goes on until then",
    async () => {
      const server = await relayLab.actor("server", "server", "kernel,10.0.0.1,2001:db8::1");
      const scene = await openSession(server);
      await link(scene);
      server.process.kill("SIGKILL");
      await server.process.exited;
      await through(scene, left, right);
      expect(await host().execOrThrow(["conntrack", "-L", "-p", "udp"])).toContain(`dport=${scene.port}`);
      const lease = `${LEFT} . ${WG} . ${scene.port}`;
      await host().execOrThrow(["nft", "delete", "element", "ip", RELAY_TABLE, "lease", `{ ${lease} }`]);
      // A second is the shortest lease: it is renewed as the server would have done, and then not any more.
      await host().execOrThrow(["nft", "add", "element", "ip", RELAY_TABLE, "lease", `{ ${lease} timeout 1s }`]);
      await until(
        async () =>
          !(await host().execOrThrow(["nft", "list", "set", "ip", RELAY_TABLE, "lease"])).includes(`${LEFT} . `),
        { what: "the lease runs out" },
      );
      await send(left, scene, "after the lease");
      // The other direction has its own, and is open: what was sent before it did not come.
      await send(right, scene, "still leased");
      await hears(left, packet("still leased"));
      const heardByRight = (await right.ask({ do: "received" })) as Heard[];
      expect(heardByRight.map((one) => one.hex)).not.toContain(packet("after the lease"));
      await host().exec(["nft", "flush", "ruleset"]);
    },
    MINUTE,
  );

  test(
    "a new server does not use the ports that an old one left",
    async () => {
      const first = await relayLab.actor("server", "server", "kernel,10.0.0.1,2001:db8::1");
      const old = await openSession(first);
      await link(old);
      first.process.kill("SIGKILL");
      await first.process.exited;
      const second = await relayLab.actor("server", "server", "kernel,10.0.0.1,2001:db8::1");
      await through(old, right, left); // nothing was lost with the old server
      const ports = await Promise.all(Array.from({ length: 40 }, async () => (await openSession(second)).port));
      expect(ports).not.toContain(old.port);
      await second[Symbol.asyncDispose]();
      await host().exec(["nft", "flush", "ruleset"]);
    },
    MINUTE,
  );

  test(
    "spoofed packets reach nobody but the end that they pretend to come from the other of",
    async () => {
      await using server = await relayLab.actor("server", "server", "kernel,10.0.0.1,2001:db8::1");
      const [scene, unused] = [await openSession(server), await openSession(server)];
      await link(scene);
      const lies = { 7001: LEFT, 7002: RIGHT, 7003: "10.0.0.1", 7004: "10.0.0.9" } as const;
      const rules = Object.entries(lies).map(([port, from]) => `udp sport ${port} ip saddr set ${from}`);
      // One pretends well: to be the left end, with its port; only WireGuard's own keys can tell it from the real one.
      rules.push(`udp sport 7005 ip saddr set ${LEFT} udp sport set ${WG}`);
      await stranger.host.execOrThrow(["nft", "-f", "-"], {
        stdin: `table ip lies {\n chain out {\n type filter hook output priority -300\n ${rules.join("\n ")}\n }\n}\n`,
      });
      // Whatever the stranger sends to the right end goes by way of the server.
      await stranger.host.execOrThrow(["ip", "route", "replace", `${RIGHT}/32`, "via", "10.0.0.1"]);
      const isLie = ({ ip }: { readonly ip: Uint8Array }) => Buffer.from(ip).includes("spoofed");
      await using atLeft = await relayLab.lab.host("left").sniff("eth0", "udp and dst host 10.0.0.2");
      await using atRight = await relayLab.lab.host("right").sniff("eth0", "udp and dst host 10.0.0.3");
      const tell = (fromPort: number, to: string, port: number) =>
        stranger.ask({ do: "send", hex: packet(`spoofed ${fromPort}`), fromPort, to, port });
      for (const fromPort of [...Object.keys(lies).map(Number), 7006]) {
        for (const port of [scene.port, unused.port, scene.port === 40_099 ? 40_000 : scene.port + 1, WG, 53]) {
          await tell(fromPort, "10.0.0.1", port);
          await tell(fromPort, RIGHT, port);
        }
      }
      await tell(7005, "10.0.0.1", unused.port);
      await tell(7005, RIGHT, scene.port);
      await tell(7005, "10.0.0.1", scene.port);
      await until(() => atRight.packets().some(isLie), { what: "the one that pretends well arrives" });
      await through(scene, right, left);
      expect(
        atRight
          .packets()
          .filter(isLie)
          .map(({ text }) => text),
      ).toEqual([`udp 10.0.0.1:${scene.port} > ${RIGHT}:${WG} length 32`]);
      expect(atLeft.packets().filter(isLie)).toEqual([]);
      await stranger.host.execOrThrow(["nft", "delete", "table", "ip", "lies"]);
      await stranger.host.execOrThrow(["ip", "route", "del", `${RIGHT}/32`]);
      await host().exec(["nft", "flush", "ruleset"]);
    },
    MINUTE,
  );

  test(
    "nothing else is forwarded where forwarding was switched on for the relay",
    async () => {
      const viaServer = async (): Promise<boolean> => {
        await relayLab.lab.host("left").exec(["ip", "route", "replace", `${RIGHT}/32`, "via", "10.0.0.1"]);
        await left.ask({ do: "send", hex: packet("routed"), fromPort: WG, to: RIGHT, port: WG });
        await relayLab.lab.host("left").exec(["ip", "route", "del", `${RIGHT}/32`]);
        await left.ask({ do: "send", hex: packet("direct"), fromPort: WG, to: RIGHT, port: WG });
        return (await hears(right, packet("direct"))).some((one) => one.hex === packet("routed"));
      };
      expect(await viaServer()).toBe(true); // the positive control: this host forwards
      await using server = await relayLab.actor("server", "server", "kernel,10.0.0.1,2001:db8::1");
      expect(await viaServer()).toBe(false);
      await link(await openSession(server));
      await host().exec(["nft", "flush", "ruleset"]);
    },
    MINUTE,
  );
});
