// Real machines in this process: enrolment, membership, tunnel and a client's connection, over a fake WireGuard and a fake system.
import { rm } from "node:fs/promises";
import type { Cidr } from "../../src/base/ip.ts";
import { type LogLevel, createLogger, silentLogger } from "../../src/base/log.ts";
import { type Connection, connect } from "../../src/client/connection.ts";
import { type ExitChoice, parseExitChoice } from "../../src/client/exit-choice.ts";
import type { ClientFirewallPolicy, ClientFirewallWanted } from "../../src/net/firewall/client.ts";
import type { ClientRoutesPolicy } from "../../src/net/routes/client-routes.ts";
import type { DnsPolicy } from "../../src/net/dns/system-dns.ts";
import { join } from "../../src/peer/enrol.ts";
import { EnrolmentStore, readEnrolment } from "../../src/peer/enrolment.ts";
import { type MachineKeys, machineKeys } from "../../src/peer/identity.ts";
import { NOTHING_NEAR } from "../../src/net/local-networks.ts";
import { OPEN } from "../../src/net/lockdown-file.ts";
import { joinNetwork, type Membership } from "../../src/peer/membership.ts";
import { openStateDir, type StateDir } from "../../src/peer/state-dir.ts";
import { allowedPrefixes } from "../../src/peer/trust.ts";
import { TrustStore } from "../../src/peer/trust-store.ts";
import { openTunnel } from "../../src/peer/tunnel.ts";
import type { Invite } from "../../src/proto/invite.ts";
import { FakeWireGuard, freeUdpPort } from "./fake-wireguard.ts";
import { temporaryDir, type TestServer } from "./server-support.ts";

/** `HIGGS_TEST_LOG=debug` shows what the machines log. */
const level = process.env["HIGGS_TEST_LOG"];
export const testLog =
  level === undefined ? silentLogger : createLogger({ level: level as LogLevel, write: (line) => console.error(line) });

export const NEVER = new AbortController().signal;
export const EXIT_ROUTES = ["0.0.0.0/0", "::/0"] as Cidr[];

/** The machines of these tests have no networks of their own. */
const NO_PREFIXES = (): Promise<readonly []> => Promise.resolve([]);

export interface Enrolled extends AsyncDisposable {
  readonly dir: StateDir;
}

export async function enrolWith(invite: Invite, name: string): Promise<Enrolled> {
  const path = await temporaryDir();
  const dir = await openStateDir(path);
  const gone = () => rm(path, { recursive: true, force: true });
  try {
    await join(
      dir,
      invite,
      { role: invite.role, name, hostname: name, version: "0.0.0-test", platform: "test", prefixes: NO_PREFIXES },
      NEVER,
    );
  } catch (thrown) {
    await gone();
    throw thrown;
  }
  return { dir, [Symbol.asyncDispose]: gone };
}

/** With the keys that are in the folder, if there are any. */
export async function joinAgain(dir: StateDir, invite: Invite, name: string | null = null): Promise<void> {
  const options = {
    role: invite.role,
    name,
    hostname: "machine",
    version: "0.0.0-test",
    platform: "test",
    prefixes: NO_PREFIXES,
  };
  await join(dir, invite, options, NEVER);
}

export async function enrolAt(server: TestServer, role: "node" | "client", name: string): Promise<Enrolled> {
  return enrolWith(await server.invite({ role }), name);
}

interface Parts {
  readonly dir: StateDir;
  readonly store: EnrolmentStore;
  readonly keys: MachineKeys;
  readonly trust: TrustStore;
}

async function partsOf(dir: StateDir, role: "node" | "client"): Promise<Parts> {
  return {
    dir,
    store: new EnrolmentStore(dir, await readEnrolment(dir, role)),
    keys: await machineKeys(dir),
    trust: await TrustStore.open(dir),
  };
}

export interface RunningNode extends AsyncDisposable, Parts {
  readonly membership: Membership;
  readonly wireGuard: FakeWireGuard;
}

/** As `higgs node` puts it together, with an exit that is ready. */
export async function startNode(dir: StateDir, version = "0.0.0-test"): Promise<RunningNode> {
  const parts = await partsOf(dir, "node");
  const { store, keys, trust } = parts;
  const stack = new AsyncDisposableStack();
  const wireGuard = stack.use(new FakeWireGuard());
  let sync: () => void = () => undefined;
  const membership = joinNetwork(
    { dir, store, keys, trust, log: testLog },
    { offer: { routes: EXIT_ROUTES, endpoint: null }, version, onChange: () => sync() },
  );
  const tunnel = await openTunnel(
    { device: wireGuard, relay: membership.relay, log: testLog },
    { privateKey: keys.wireGuard, listenPort: await freeUdpPort(), addresses: [store.value.ipv4, store.value.ipv6] },
    NEVER,
  );
  stack.use(tunnel);
  stack.use(membership);
  sync = () => {
    const peers = [...membership.sessions.values()].flatMap((session) => {
      const machine = membership.map.get(session.peer)?.machine;
      if (machine === undefined) return [];
      const { wireGuard: key } = machine;
      const { name } = machine;
      return [{ id: session.peer, name, wireGuard: key, allowedIps: allowedPrefixes(machine, []), session }];
    });
    void tunnel.sync(peers, NEVER);
  };
  sync();
  membership.presence({ ready: true, ipv6: true, missing: [] });
  return { ...parts, membership, wireGuard, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

/** What a client asked of its operating system; each entry is the last that was asked for. */
export class FakeSystem {
  routes: ClientRoutesPolicy | null = null;
  firewall: ClientFirewallPolicy | null = null;
  dns: DnsPolicy | null = null;
  fail: Error | null = null;

  get deps() {
    return {
      routes: {
        apply: (policy: ClientRoutesPolicy) => {
          if (this.fail !== null) return Promise.reject(this.fail);
          this.routes = policy;
          return Promise.resolve(true);
        },
        verify: () => Promise.resolve([]),
        reset: () => Promise.resolve(void (this.routes = null)),
      },
      firewall: {
        closes: () => Promise.resolve(false),
        apply: ({ policy }: ClientFirewallWanted) => Promise.resolve(void (this.firewall = policy)),
        verify: () => Promise.resolve([]),
        reset: () => Promise.resolve(void (this.firewall = null)),
      },
      dns: {
        apply: (policy: DnsPolicy) => Promise.resolve(void (this.dns = policy)),
        reset: () => Promise.resolve(void (this.dns = null)),
      },
    };
  }
}

export interface RunningClient extends AsyncDisposable, Parts {
  readonly connection: Connection;
  readonly wireGuard: FakeWireGuard;
  readonly system: FakeSystem;
}

/** As `higgs client up` puts it together; `exit` is what a person typed. */
export async function startClient(dir: StateDir, exit = "auto"): Promise<RunningClient> {
  const parts = await partsOf(dir, "client");
  const { store, keys, trust } = parts;
  const wireGuard = new FakeWireGuard();
  const system = new FakeSystem();
  const choice: ExitChoice = parseExitChoice(exit);
  const listenPort = await freeUdpPort();
  const connection = await connect(
    {
      membership: (onChange) =>
        joinNetwork(
          { dir, store, keys, trust, log: testLog },
          { offer: { routes: [], endpoint: null }, version: "0.0.0-test", onChange },
        ),
      openTunnel: ({ membership }, signal) =>
        openTunnel(
          { device: wireGuard, relay: membership.relay, log: testLog },
          { privateKey: keys.wireGuard, listenPort, addresses: [store.value.ipv4, store.value.ipv6] },
          signal,
        ),
      ...system.deps,
      obstacle: () => Promise.resolve(null),
      localNetworks: () => Promise.resolve(NOTHING_NEAR),
      protection: () => OPEN,
      enrolment: () => store.value,
      carriers: () => [],
      wireGuardPort: listenPort,
      interface: "higgs0",
      uid: 0,
      log: testLog,
    },
    choice,
    NEVER,
  );
  return {
    ...parts,
    connection,
    wireGuard,
    system,
    async [Symbol.asyncDispose]() {
      await connection.close();
      await wireGuard[Symbol.asyncDispose]();
    },
  };
}

/** Words that went from one end to the other and back, through whatever is between. */
export async function talk(client: RunningClient, node: RunningNode, text: string): Promise<void> {
  const clientKey = client.keys.wireGuardKey;
  const nodeKey = node.keys.wireGuardKey;
  await repeatUntil(
    () => client.wireGuard.say(nodeKey, `${text} there`),
    () => node.wireGuard.heard(`${text} there`),
    `"${text} there" at the node`,
  );
  await repeatUntil(
    () => node.wireGuard.say(clientKey, `${text} back`),
    () => client.wireGuard.heard(`${text} back`),
    `"${text} back" at the client`,
  );
}

/** Datagrams are repeated, as whoever uses them repeats them. */
async function repeatUntil(act: () => void, seen: () => boolean, what: string): Promise<void> {
  const end = performance.now() + 40_000;
  while (!seen()) {
    if (performance.now() > end) throw new Error(`waited in vain for ${what}`);
    act();
    await Bun.sleep(5);
  }
}
