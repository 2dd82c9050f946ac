// The role `client`: a laptop that sends everything through an exit; connects, disconnects, and undoes what it did.
import { z } from "zod";
import { DeadlineExceeded, SerialQueue, withDeadline } from "../base/async.ts";
import { errorText } from "../base/errors.ts";
import { type ExitChoice, ExitError, exitChoiceText, offersExit, parseExitChoice } from "../client/exit-choice.ts";
import { connect, ConnectError, type Connection } from "../client/connection.ts";
import type { LockdownChange } from "../net/lockdown-file.ts";
import { clientSystem } from "../net/os.ts";
import type { ClientSystem } from "../net/system.ts";
import { watchDifferences } from "../net/watch-differences.ts";
import { proxyName } from "../net/http-proxy.ts";
import { EnrolmentStore, readEnrolment } from "../peer/enrolment.ts";
import { machineKeys } from "../peer/identity.ts";
import { joinNetwork } from "../peer/membership.ts";
import { Mender, type MendWhat } from "../peer/mender.ts";
import { carriersOf } from "../peer/server-link.ts";
import { changeSettings, listenPort, readSettings } from "../peer/settings.ts";
import { openStateDir } from "../peer/state-dir.ts";
import { TrustStore } from "../peer/trust-store.ts";
import { openTunnel } from "../peer/tunnel.ts";
import { clientStatus, exitRows, relayWithheld } from "./client-status.ts";
import type { Config } from "./config.ts";
import { holdLockdown } from "./lockdown.ts";
import { machinePaths, machinePorts, routerAccess } from "./machine-paths.ts";
import { bodyOf, machineVerbs, trustVerbs } from "./machine-verbs.ts";
import { foreignNamesText } from "./names-health.ts";
import { obstacleHere } from "./obstacle.ts";
import { openProxy } from "./proxy.ts";
import { startRuntime } from "./runtime.ts";
import { VERSION } from "./version.ts";

export interface ClientCallbacks {
  /** Takes one line of JSON. */
  readonly write: (line: string) => void;
  /** Once the control sockets answer. */
  readonly onReady: () => void;
}

export interface ClientRun {
  /** Started by `up` in the background: then `down` ends the process; in the foreground it stays, disconnected. */
  readonly background: boolean;
}

const upBody = z.object({ exit: z.string().max(63).nullable(), timeoutMs: z.number().positive().max(3_600_000) });
const proxyBody = z.object({ text: z.string().max(4096), except: z.string().max(65_536), isNamed: z.boolean() });
const exitBody = z.object({ exit: z.string().max(63) });
const protectBody = z.object({ lockdown: z.boolean(), lan: z.boolean(), paranoid: z.boolean() }).partial();
const waitBody = z.object({
  for: z.enum(["connected", "direct"]).default("connected"),
  timeoutMs: z.number().positive().max(86_400_000),
});

/** Runs until a signal, or `down` in the background; then everything is undone. */
export async function runClient(config: Config<"client">, run: ClientRun, callbacks: ClientCallbacks): Promise<void> {
  await using runtime = await startRuntime({
    role: "client",
    runDir: config.run,
    logLevel: config.logLevel,
    write: callbacks.write,
  });
  const { log, signal } = runtime;
  const dir = await openStateDir(config.state);
  const store = new EnrolmentStore(dir, await readEnrolment(dir, "client"));
  const keys = await machineKeys(dir);
  const trust = await TrustStore.open(dir);
  const os = await clientSystem({
    stateDir: config.state,
    libexecDir: config.libexec,
    wireGuard: config.wireguard,
    untestedPlatform: config.untestedPlatform,
    command: "higgs client up",
    withoutFirewall: !config.firewall,
    log,
  });
  await os.resetDnsOfEarlierBoot(signal).catch((thrown: unknown) => {
    // The server's kept addresses may do without names.
    log.warn({ reason: errorText(thrown) }, "the name servers of an earlier boot are still there");
  });
  const port = await listenPort(dir, config.port);
  const router = await routerAccess(os, { dir, portMapping: config.portMapping });
  const queue = new SerialQueue();
  let connection: Connection | null = null;
  let proxySetting = config.proxy;
  const lockdown = await holdLockdown({ os, stateDir: config.state, log });
  const protect = (change: LockdownChange, changeSignal: AbortSignal): Promise<void> =>
    queue.run(() => lockdown.change(change, connection, changeSignal));
  const protection = () => ({ ...lockdown.current, connected: connection?.state.kind === "connected" });

  async function chosenExit(asked: string | null): Promise<ExitChoice> {
    if (asked !== null) {
      const choice = parseExitChoice(asked);
      await changeSettings(dir, { exit: exitChoiceText(choice) });
      return choice;
    }
    return parseExitChoice((await readSettings(dir)).exit ?? "auto");
  }

  const up = (asked: string | null): Promise<Connection> =>
    queue.run(async () => {
      const choice = await chosenExit(asked);
      if (connection !== null) {
        connection.use(choice);
        return connection;
      }
      const proxy = await openProxy(dir, proxySetting);
      log.info(
        { exit: exitChoiceText(choice), proxy: proxy === null ? null : proxyName(proxy.choice.proxy) },
        "connecting",
      );
      const { ipv4, ipv6 } = store.value;
      const ports = await machinePorts(os, { port, allowed: config.paths }, signal);
      connection = await connect(
        {
          membership: (onChange) =>
            joinNetwork(
              { dir, store, keys, trust, proxy, log },
              {
                offer: { routes: [], endpoint: null },
                version: VERSION,
                onChange,
                onPath: (message) => connection?.paths?.take(message),
                onWelcome: () => connection?.paths?.welcomed(),
              },
            ),
          openTunnel: ({ membership, allowTcp }, openSignal) =>
            openTunnel(
              {
                device: os.wireGuard,
                relay: membership.relay,
                openPaths: machinePaths(
                  { os, membership, log },
                  {
                    enrolment: store.value,
                    allowed: config.paths,
                    ports,
                    manual: null,
                    guessesPorts: config.portGuessing,
                    router: router === null ? null : { ...router, allowTcp },
                    onChange: () => connection?.poke(),
                  },
                ),
                log,
              },
              { privateKey: keys.wireGuard, listenPort: ports.wireGuard, addresses: [ipv4, ipv6] },
              openSignal,
            ),
          routes: os.clientRoutes,
          firewall: os.clientFirewall,
          dns: os.systemDns,
          localNetworks: os.localNetworks,
          obstacle: (askSignal) => obstacleHere(os, askSignal),
          protection: () => lockdown.current,
          enrolment: () => store.value,
          carriers: () => carriersOf(store.value.servers, proxy),
          wireGuardPort: port,
          interface: os.identifiers.interface,
          uid: process.getuid?.() ?? 0,
          log,
        },
        choice,
        signal,
      ).catch(async (thrown: unknown) => {
        await lockdown.blocked(signal);
        throw thrown;
      });
      return connection;
    });

  const down = (): Promise<void> =>
    queue.run(async () => {
      const closing = connection;
      connection = null;
      try {
        await closing?.close();
        if (closing?.isShielded === true) await lockdown.close();
      } catch (thrown) {
        // What it could not put back itself is put back below, and what remains then is told.
        log.error({ reason: errorText(thrown) }, "the connection did not close in order");
      } finally {
        await undo(os, { unlock: !lockdown.current.lockdown });
        lockdown.rested();
      }
    });

  const mender = new Mender({
    // While it comes up, each step sees to its own.
    mend: async (what) => (connection?.state.kind === "connected" ? connection.mend(what, signal) : []),
    log,
    signal,
  });

  /** Somebody touched links, routes or rules: maybe ours. */
  function reconcile(what: MendWhat): void {
    connection?.poke();
    mender.poke(what);
  }

  async function differences(current: Connection | null, askSignal: AbortSignal): Promise<readonly string[]> {
    if (current === null || current.state.kind !== "connected") return [];
    const servers = current.exit?.machine.addresses;
    const foreign = servers === undefined ? null : await os.systemDns.foreign({ servers });
    const isSet = servers === undefined || (await os.changes(askSignal)).some((change) => change.kind === "dns");
    return [
      ...(await current.mend("all", askSignal)),
      ...(await os.clientRoutes.verify(askSignal)),
      ...(await os.clientFirewall.verify(askSignal)),
      ...(foreign === null ? [] : [foreignNamesText(foreign)]),
      ...(foreign === null && !isSet
        ? ["Names are not asked through the tunnel: somebody took its servers away."]
        : []),
      ...(await os.verifySettings()),
    ];
  }

  const verbDeps = {
    membership: () => connection?.membership ?? null,
    os,
    trust,
    reach: async (peer: Parameters<Connection["reach"]>[0], askSignal: AbortSignal) =>
      connection?.reach(peer, askSignal),
    paths: () => connection?.paths ?? null,
    proxy: () => connection?.membership.proxy ?? null,
  };
  const view = { os, store, startedAt: new Date(), lockdown };

  async function connected(timeoutMs: number, askSignal: AbortSignal): Promise<void> {
    const current = connection;
    if (current === null) {
      throw new ConnectError("Cannot wait for a connection: this client is disconnected.", {
        code: "not-connected",
        remedy: "higgs client up",
      });
    }
    try {
      await withDeadline("connect", (limited) => current.connected(limited), { timeoutMs, signal: askSignal });
    } catch (thrown) {
      // What stands in the way says more than that time ran out.
      if (thrown instanceof DeadlineExceeded && current.trouble !== null) throw current.trouble;
      if (thrown instanceof DeadlineExceeded) throw relayWithheld(current) ?? thrown;
      throw thrown;
    }
  }

  const notRestored = (thrown: unknown): void => {
    if (!signal.aborted) log.error({ reason: errorText(thrown) }, "the kill switch could not be put back");
  };

  async function direct(timeoutMs: number, askSignal: AbortSignal): Promise<void> {
    const current = connection;
    if (current?.exit == null) {
      throw new ConnectError("Cannot wait for a direct path: no exit is in use.", {
        code: "not-connected",
        remedy: "higgs client exit use NAME",
      });
    }
    const { name, id } = current.exit;
    try {
      await withDeadline("find a direct path", (limited) => current.direct(limited), { timeoutMs, signal: askSignal });
    } catch (thrown) {
      if (!(thrown instanceof DeadlineExceeded)) throw thrown;
      const kind = current.paths?.view(id)?.kind ?? "wss";
      throw new ConnectError(`Cannot reach "${name}" directly: packets still go by ${kind}.`, {
        code: "timeout",
        remedy: `higgs why ${name}`,
        cause: thrown,
      });
    }
  }

  try {
    await runtime.serve({
      everyday: {
        ...machineVerbs(verbDeps),
        status: (_body, askSignal) => clientStatus({ ...view, connection }, askSignal),
        settings: () => {
          const { port: wanted, paths, wireguard, portGuessing, portMapping, firewall } = config;
          return { port: wanted, paths, wireguard, portGuessing, portMapping, firewall };
        },
        up: async (body, askSignal) => {
          const { exit, timeoutMs } = bodyOf(upBody, body);
          await up(exit);
          await connected(timeoutMs, askSignal);
          return await clientStatus({ ...view, connection }, askSignal);
        },
        "lockdown-on": async (_body, askSignal) => {
          await protect({ lockdown: true }, askSignal);
          return protection();
        },
        "lockdown-status": protection,
        down: async () => {
          await down();
          if (run.background) setImmediate(() => runtime.stop()); // after this answer has left
          return { ends: run.background };
        },
        stop: () => runtime.stop(),
        wait: async (body, askSignal) => {
          const { for: what, timeoutMs } = bodyOf(waitBody, body);
          const startedMs = performance.now();
          await connected(timeoutMs, askSignal);
          if (what === "direct") await direct(Math.max(1, timeoutMs - (performance.now() - startedMs)), askSignal);
          return await clientStatus({ ...view, connection }, askSignal);
        },
        verify: async (_body, askSignal) => ({ differences: await differences(connection, askSignal) }),
        "state-list": async (_body, askSignal) => ({ changes: await os.changes(askSignal) }),
        "exit-list": () => ({ schema: "higgs.exit-list/1", exits: exitRows(connection) }),
        "exit-use": async (body) => {
          const { exit } = bodyOf(exitBody, body);
          requireKnownExit(parseExitChoice(exit), connection);
          const choice = await chosenExit(exit);
          connection?.use(choice);
          return { exit: exitChoiceText(choice) };
        },
      },
      admin: {
        ...trustVerbs(verbDeps),
        // Neither the arguments nor the environment of a process that stays may hold a password.
        proxy: async (body) => {
          const next = bodyOf(proxyBody, body);
          const isOther = JSON.stringify(next) !== JSON.stringify(proxySetting);
          if (isOther && connection?.state.kind === "connected") throw otherProxy();
          // One that still tries may be trying in vain for the want of this very proxy.
          if (isOther && connection !== null) await down();
          proxySetting = next;
          return {};
        },
        protect: async (body, askSignal) => {
          await protect(bodyOf(protectBody, body), askSignal);
          return protection();
        },
      },
    });
    await using _watch = os.watchLinks(() => {
      reconcile("all");
      connection?.paths?.networkChanged();
    });
    await using _settings = os.watchSettings(() => connection?.poke());
    await using _drift = watchDifferences({
      look: async (lookSignal) =>
        connection?.state.kind === "connected" ? await connection.lookAtDevice(lookSignal) : "right",
      onChange: () => mender.poke("all"),
    });
    await using _names = os.watchDns(() => connection?.poke());
    await using _watchRules = os.watchRules(() => {
      if (connection !== null) reconcile("rules");
      else void queue.run(() => lockdown.rest(signal)).catch(notRestored);
    });
    await protect(askedFor(config), signal);
    if (!run.background) {
      await up(config.exit).catch((thrown: unknown) => {
        log.error({ reason: errorText(thrown) }, "not connected");
        throw thrown;
      });
    }
    runtime.ready();
    callbacks.onReady();
    await new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      else signal.addEventListener("abort", () => resolve(), { once: true });
    });
  } finally {
    await down();
  }
}

/** A slip of the pen must not move a connected client to an exit that does not exist. Throws ExitError `no-exit`. */
function requireKnownExit(choice: ExitChoice, connection: Connection | null): void {
  if (choice.kind !== "named" || connection === null || !connection.membership.welcomed) return;
  const peer = connection.membership.map.named(choice.name);
  if (peer !== undefined && offersExit(peer)) return;
  const exits = connection.membership.map.peers().filter(offersExit);
  const names = exits.map((exit) => exit.name).join(", ");
  throw new ExitError(`Cannot use the exit "${choice.name}": no machine of that name offers one here.`, {
    code: "no-exit",
    remedy: names === "" ? "higgs client exit list" : `There are: ${names}`,
  });
}

function otherProxy(): ConnectError {
  return new ConnectError("Cannot use another --proxy: the running client was started without it.", {
    code: "already-running",
    remedy: "higgs client down",
  });
}

/** What was changed is put back even though the process is ending; each step has its own deadline. */
async function undo(os: ClientSystem, how: { readonly unlock: boolean }): Promise<void> {
  for (const line of await os.undoAll(new AbortController().signal, how)) os.log.info({}, line);
}

/** What closes more is asked for by a flag; opening again is a command of its own. */
function askedFor({ lockdown, lan }: Config<"client">): LockdownChange {
  return { lockdown: lockdown === true ? true : undefined, lan: lan ?? undefined };
}
