import { afterEach, expect, test } from "bun:test";
import { silentLogger } from "../../../src/base/log.ts";
import { type Connection, ConnectError, connect, handshakePollMs } from "../../../src/client/connection.ts";
import { parseExitChoice } from "../../../src/client/exit-choice.ts";
import { NOTHING_NEAR } from "../../../src/net/local-networks.ts";
import { type Lockdown, OPEN } from "../../../src/net/lockdown-file.ts";
import { knownPeer, somebody } from "../peer/machines.ts";
import { sampleEnrolment } from "../peer/state.ts";
import { failureOf } from "../support/failure.ts";
import { FakeNetwork } from "./fake-membership.ts";

const NEVER = new AbortController().signal;
const home = somebody("home", 2);
const cabin = somebody("cabin", 3);

const open: Connection[] = [];
afterEach(async () => {
  for (const connection of open.splice(0)) await connection.close();
});

async function until(what: () => boolean): Promise<void> {
  while (!what()) await Bun.sleep(1);
}

/** What the operating system was asked for, in order. */
async function start(
  network: FakeNetwork,
  exit = "auto",
  { protection = OPEN, isClosed = false }: { protection?: Lockdown; isClosed?: boolean } = {},
) {
  const system: string[] = [];
  const fails = new Map<string, Error>();
  const does = (what: string): Promise<void> => {
    const error = fails.get(what);
    if (error !== undefined) return Promise.reject(error);
    system.push(what);
    return Promise.resolve();
  };
  const connection = await connect(
    {
      membership(onChange) {
        network.onChange = onChange;
        return network.membership;
      },
      openTunnel: () => Promise.resolve(network.tunnel),
      routes: {
        apply: async ({ families }) => {
          await does(`routes ${families[4]} ${families[6]}`);
          return true;
        },
        verify: () => Promise.resolve([]),
        reset: () => does("routes reset"),
      },
      firewall: {
        apply: ({ policy }) => does(`firewall ${policy.kind}`),
        closes: () => Promise.resolve(isClosed),
        verify: () => Promise.resolve([]),
        reset: () => does("firewall reset"),
      },
      dns: { apply: ({ servers }) => does(`dns ${servers.join(" ")}`), reset: () => does("dns reset") },
      obstacle: () => Promise.resolve(null),
      localNetworks: () => Promise.resolve(NOTHING_NEAR),
      protection: () => protection,
      enrolment: () => sampleEnrolment,
      carriers: () => [],
      wireGuardPort: 51820,
      interface: "higgs0",
      uid: 0,
      log: silentLogger,
    },
    parseExitChoice(exit),
    NEVER,
  );
  open.push(connection);
  return { connection, system, fails };
}

/** Through the session and the handshake of one peer. */
async function answer(network: FakeNetwork, who = home): Promise<void> {
  await until(() => network.asked.some((one) => one.peer === who.id));
  network.asked.find((one) => one.peer === who.id)?.grant();
  await until(() => network.wanted.some((peer) => peer.id === who.id && peer.session !== null));
  network.handshakes.set(who.wireGuard, Date.now());
}

test("connect() takes routes and DNS over only after the exit answered, the firewall first", async () => {
  const network = new FakeNetwork();
  const { connection, system } = await start(network);
  expect(connection.state.kind).toBe("connecting");
  network.show(knownPeer(home));
  await until(() => network.asked.length === 1);
  network.asked[0]?.grant();
  await until(() => network.wanted[0]?.session?.id === 1);
  expect(system).toEqual([]);
  network.handshakes.set(home.wireGuard, Date.now());
  await connection.connected(NEVER);
  expect(system.slice(0, 3)).toEqual(["firewall connected", "routes tunnel tunnel", "dns 10.77.0.2 fd00:77::2"]);
  expect(connection.exit?.id).toBe(home.id);
  expect(connection.trouble).toBeNull();
});

test("connect() goes on looking for the exit's answer after a look that found no device", async () => {
  const network = new FakeNetwork();
  const { connection } = await start(network);
  network.show(knownPeer(home));
  await until(() => network.asked.length === 1);
  network.asked[0]?.grant();
  await until(() => network.wanted[0]?.session?.id === 1);
  const passes = network.looks;
  await until(() => network.looks > passes); // nothing else looks now
  network.isDeviceGone = true;
  const looks = network.looks;
  await until(() => network.looks > looks);
  network.isDeviceGone = false;
  network.handshakes.set(home.wireGuard, Date.now());
  await connection.connected(NEVER);
});

test("connect() waits, and says for what, while there is no exit", async () => {
  const network = new FakeNetwork();
  const { connection, system } = await start(network, "home");
  network.show(knownPeer(home, { online: false }));
  await until(() => connection.trouble !== null);
  expect(connection.trouble).toMatchObject({ code: "no-exit", message: '"home" is offline.' });
  const controller = new AbortController();
  const waiting = failureOf(connection.connected(controller.signal));
  controller.abort(new Error("enough"));
  expect(await waiting).toMatchObject({ message: "enough" });
  expect(system).toEqual([]);
  expect(network.asked).toEqual([]);
});

test("connect() stays connected when the exit goes away: nothing leaves by another way", async () => {
  const network = new FakeNetwork();
  const { connection, system } = await start(network, "home");
  network.show(knownPeer(home));
  await answer(network);
  await connection.connected(NEVER);
  const before = system.length;
  network.show();
  await until(() => connection.trouble !== null);
  expect(connection.trouble).toMatchObject({ code: "no-exit" });
  expect(connection.state.kind).toBe("connected");
  await until(() => network.wanted.length === 0 || system.length >= before);
  for (const line of system.slice(before)) expect(line).not.toMatch(/own|reset/);
});

test("connect() without an exit keeps the machine's own routes and resolver", async () => {
  const network = new FakeNetwork();
  const { connection, system } = await start(network, "none");
  await connection.connected(NEVER);
  expect(system).toEqual(["firewall exitless", "routes own own", "dns reset"]);
  expect(network.wanted).toEqual([]);
});

test("use() moves to another exit once that one answers", async () => {
  const network = new FakeNetwork();
  const { connection, system } = await start(network, "home");
  network.show(knownPeer(home), knownPeer(cabin));
  await answer(network);
  await connection.connected(NEVER);
  connection.use(parseExitChoice("cabin"));
  const connected = connection.connected(NEVER);
  await answer(network, cabin);
  await connected;
  expect(system).toContain("dns 10.77.0.3 fd00:77::3");
  expect(network.wanted.map((peer) => peer.id)).toEqual([cabin.id]);
  expect(connection.exit?.id).toBe(cabin.id);
});

test("use() of another exit was called connected before that one answered", async () => {
  const network = new FakeNetwork();
  const { connection, system } = await start(network, "home");
  network.show(knownPeer(home), knownPeer(cabin));
  await answer(network);
  await connection.connected(NEVER);
  const before = system.length;
  connection.use(parseExitChoice("cabin"));
  expect(connection.state.kind).toBe("connecting");
  await until(() => network.wanted[0]?.id === cabin.id);
  expect(connection.state.kind).toBe("connecting");
  expect(new Set(system.slice(before))).toEqual(new Set(["firewall connected"])); // routes and DNS stay tunnelled
  connection.use(parseExitChoice("home"));
  await connection.connected(NEVER);
  expect(connection.exit?.id).toBe(home.id);
});

test("use() of an exit that is not there waits for it, in the tunnel of the one before", async () => {
  const network = new FakeNetwork();
  const { connection, system } = await start(network, "home");
  network.show(knownPeer(home), knownPeer(cabin, { online: false }));
  await answer(network);
  await connection.connected(NEVER);
  connection.use(parseExitChoice("cabin"));
  expect(connection.state.kind).toBe("connecting");
  await until(() => connection.trouble?.code === "no-exit");
  const before = system.length;
  connection.poke();
  await until(() => system.length > before); // still looked after
  expect(network.wanted.map((peer) => peer.id)).toEqual([home.id]);
  for (const line of system) expect(line).not.toMatch(/own|reset/);
  expect(connection.state.kind).toBe("connecting");
  network.show(knownPeer(home), knownPeer(cabin));
  await answer(network, cabin);
  await connection.connected(NEVER);
  expect(connection.exit?.id).toBe(cabin.id);
});

test("close() left those who wait for a connection or a peer waiting for ever", async () => {
  const network = new FakeNetwork();
  const { connection } = await start(network);
  const waiting = failureOf(connection.connected(NEVER));
  const reaching = failureOf(connection.reach(knownPeer(cabin), NEVER));
  await connection.close();
  expect(await waiting).toMatchObject({ code: "not-connected" });
  expect(await reaching).toMatchObject({ code: "not-connected" });
  expect(await failureOf(connection.connected(NEVER))).toMatchObject({ code: "not-connected" });
});

test("connect() goes on looking for the handshake of an exit that was offline meanwhile", async () => {
  const network = new FakeNetwork();
  const { connection } = await start(network, "home");
  network.show(knownPeer(home));
  await until(() => network.asked.length === 1);
  network.asked[0]?.grant();
  await until(() => network.looks > 2);
  network.show(knownPeer(home, { online: false }));
  await until(() => connection.exit?.online === false);
  network.show(knownPeer(home));
  await answer(network);
  await connection.connected(NEVER);
});

test("handshakePollMs() asked the device fifty times a second for as long as no handshake came", () => {
  expect([0, 1_000, 2_000].map(handshakePollMs)).toEqual([20, 20, 20]);
  expect(handshakePollMs(2_100)).toBe(100);
  expect(handshakePollMs(60_000)).toBe(1_000);
});

test("connect() asks once for a session, and again after a refusal", async () => {
  const network = new FakeNetwork();
  const { connection } = await start(network);
  network.show(knownPeer(home));
  await until(() => network.asked.length === 1);
  connection.poke();
  connection.poke();
  await Bun.sleep(0);
  network.asked[0]?.refuse(new ConnectError("no", { code: "policy-refused" }));
  await until(() => network.asked.length === 2);
  expect(network.asked.map((one) => one.peer)).toEqual([home.id, home.id]);
});

test("connect() asks for no session while the server is away", async () => {
  const network = new FakeNetwork();
  network.online = false;
  network.trouble = new ConnectError("Cannot reach the server.", { code: "server-unreachable" });
  const { connection } = await start(network);
  network.show(knownPeer(home));
  await until(() => connection.trouble?.code === "server-unreachable");
  await until(() => network.wanted.length === 1);
  expect(network.asked).toEqual([]);
});

test("connect() tells what the operating system refused, and goes on when it is poked again", async () => {
  const network = new FakeNetwork();
  const { connection, system, fails } = await start(network);
  fails.set("routes tunnel tunnel", new ConnectError("Cannot set routes.", { code: "routes-failed" }));
  network.show(knownPeer(home));
  await answer(network);
  await until(() => connection.trouble?.code === "routes-failed");
  expect(connection.state.kind).toBe("connecting");
  fails.clear();
  connection.poke();
  await connection.connected(NEVER);
  expect(system).toContain("routes tunnel tunnel");
  expect(connection.trouble).toBeNull();
});

test("reach() keeps a session with a peer that is no exit, for its own addresses", async () => {
  const network = new FakeNetwork();
  const { connection } = await start(network, "home");
  const other = knownPeer(cabin, {}, { routes: [] });
  network.show(knownPeer(home), other);
  await answer(network);
  await connection.connected(NEVER);
  const reached = connection.reach(other, NEVER);
  await answer(network, cabin);
  await reached;
  expect(network.wanted.map((peer) => [peer.id, peer.allowedIps.length])).toEqual([
    [home.id, 4],
    [cabin.id, 2],
  ]);
});

test("close() ends membership and tunnel, and leaves the operating system to the caller", async () => {
  const network = new FakeNetwork();
  const { connection, system } = await start(network);
  network.show(knownPeer(home));
  await answer(network);
  await connection.connected(NEVER);
  const before = [...system];
  await connection.close();
  expect(network.closed).toEqual(["membership", "tunnel"]);
  expect(system).toEqual(before);
  expect(connection.state.kind).toBe("disconnecting");
});

test("connect() leaves no membership behind when there is no tunnel", async () => {
  const network = new FakeNetwork();
  const failing = connect(
    {
      membership: () => network.membership,
      openTunnel: () => Promise.reject(new ConnectError("no tun", { code: "tun-missing" })),
      protection: () => OPEN,
      firewall: { closes: () => Promise.resolve(false) },
      obstacle: () => Promise.resolve(null),
    } as unknown as Parameters<typeof connect>[0],
    { kind: "auto" },
    NEVER,
  );
  expect(await failureOf(failing)).toMatchObject({ code: "tun-missing" });
  expect(network.closed).toEqual(["membership"]);
});

test("close() ends its sessions, so that the exit need not wait for the server to notice", async () => {
  const network = new FakeNetwork();
  const { connection } = await start(network, "home");
  network.show(knownPeer(home));
  await answer(network);
  await connection.connected(NEVER);
  network.sessions.set(home.id, { id: 7, peer: home.id, kind: "wireguard", initiator: true });
  await connection.close();
  expect(network.said).toEqual([{ type: "disconnect", id: 7 }]);
});

test("connect() closes everything before its first packet while the kill switch is on", async () => {
  const network = new FakeNetwork();
  const { connection, system } = await start(network, "home", { protection: { ...OPEN, lockdown: true } });
  expect(system[0]).toBe("firewall connecting");
  network.show(knownPeer(home, { online: false }));
  await until(() => connection.trouble !== null);
  expect(new Set(system)).toEqual(new Set(["firewall connecting"]));
  network.show(knownPeer(home));
  await answer(network);
  await connection.connected(NEVER);
  expect(system.slice(system.indexOf("firewall connected"))).toEqual([
    "firewall connected",
    "routes tunnel tunnel",
    "dns 10.77.0.2 fd00:77::2",
  ]);
});

test("connect() keeps the firewall closed although the exit no longer answers", async () => {
  const network = new FakeNetwork();
  const { connection, system } = await start(network, "home");
  network.show(knownPeer(home));
  await answer(network);
  await connection.connected(NEVER);
  network.handshakes.clear();
  const before = system.length;
  connection.poke();
  await until(() => system.length > before);
  expect(system.slice(before)).toEqual(["firewall connected"]);
});

test("protect() opens what a kill switch had closed, and nothing that a connection closes", async () => {
  const waiting = new FakeNetwork();
  const opened = await start(waiting, "home");
  await opened.connection.protect(NEVER);
  expect(opened.system).toEqual(["firewall disconnected"]);
  const network = new FakeNetwork();
  const { connection, system } = await start(network, "home");
  network.show(knownPeer(home));
  await answer(network);
  await connection.connected(NEVER);
  await connection.protect(NEVER);
  expect(system).not.toContain("firewall disconnected");
});

test("connect() after a client that was killed on its way down never reached the server: everything was closed", async () => {
  const network = new FakeNetwork();
  const { connection, system } = await start(network, "home", { isClosed: true });
  expect(system).toEqual(["firewall connecting"]);
  network.show(knownPeer(home, { online: false }));
  await until(() => connection.trouble !== null);
  expect(new Set(system)).toEqual(new Set(["firewall connecting"]));
  expect(connection.isShielded).toBe(true);
});

test("connect() touches nothing where another program keeps everything from the tunnel", async () => {
  const deps = {
    protection: () => OPEN,
    firewall: { closes: () => Promise.resolve(false) },
    obstacle: () => Promise.resolve(new ConnectError("wg0 takes it", { code: "rule-before-ours" })),
  } as unknown as Parameters<typeof connect>[0]; // whatever else is asked for fails
  expect(await failureOf(connect(deps, { kind: "auto" }, NEVER))).toMatchObject({ code: "rule-before-ours" });
});
