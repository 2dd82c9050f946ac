// The server: puts its parts together on one TCP port and one UDP port, and is what the local control socket asks.
import { errorText, HiggsError } from "../base/errors.ts";
import { repeat, Stopped } from "../base/async.ts";
import { formatHostPort, type HostPort } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import type { Service } from "../base/service.ts";
import { formatInvite } from "../proto/invite.ts";
import type { IdentityKey, IdentitySecret } from "../proto/keys.ts";
import { createApi } from "./api/app.ts";
import { RequestCounts } from "./api/request-counts.ts";
import { type AuditEntry, readAudit, trimAudit } from "./audit.ts";
import { Auth } from "./auth.ts";
import { backupDatabase } from "./backup.ts";
import type { ServerTls } from "./certificate.ts";
import type { Database } from "./db/open.ts";
import { loadDirectory, type Machine } from "./directory.ts";
import { Fleet } from "./fleet.ts";
import { Health } from "./health.ts";
import { type InviteRequest, type InviteSummary, makeInvite, openInvites, revokeInvite } from "./invites.ts";
import { createLimiters } from "./limiters.ts";
import { listen, RELAY_PATH } from "./listen.ts";
import { Loads } from "./load.ts";
import { MetricsStore } from "./metrics/metrics.ts";
import { startNetwork } from "./network.ts";
import type { ServerOptions } from "./options.ts";
import { defaultPolicy } from "./policy.ts";
import { loadRelayUsage } from "./relay/usage.ts";
import {
  machineSummaries,
  type MachineSummary,
  quotaHealth,
  type ServerStatus,
  type SessionSummary,
  sessionSummaries,
} from "./summaries.ts";
import { prometheusText } from "./prometheus.ts";
import { Routing } from "./routing.ts";
import { type StunServer, stunServer } from "./stun.ts";
import type { UdpRelay } from "./udp-relay/service.ts";

export class ServerError extends HiggsError {
  override readonly name = "ServerError";
}

export interface ServerDeps {
  /** The caller closes it, after the server. */
  readonly database: Database;
  /** The network's. */
  readonly identity: IdentitySecret;
  readonly tls: ServerTls;
  /** Null for none; the caller closes it, after the server. */
  readonly udpRelay?: UdpRelay | null;
  readonly log: Logger;
}

export interface HiggsServer extends Service {
  readonly port: number;
  readonly stunPort: number | null;
  readonly network: IdentityKey;
  /** `host:port`, as machines reach it. */
  readonly names: readonly string[];
  status(): ServerStatus;
  machines(): MachineSummary[];
  sessions(): SessionSummary[];
  audit(limit: number): Promise<readonly AuditEntry[]>;
  /** `text` is shown once; the secret in it is stored nowhere. */
  invite(request: InviteRequest): Promise<{ readonly text: string; readonly expiresAt: number; readonly uses: number }>;
  invites(): Promise<readonly InviteSummary[]>;
  revokeInvite(id: string): Promise<void>;
  /** In the text format of Prometheus. */
  prometheus(): string;
  /** Copies the database into a file that must not exist yet; see backupDatabase. */
  backup(path: string): Promise<void>;
  /** By name, effective at once. Throws ServerError `machine-unknown`. */
  revoke(name: string): Promise<void>;
  rename(name: string, to: string): Promise<void>;
  tag(name: string, tags: readonly string[]): Promise<void>;
}

/** Sessions that were left behind, readers that are stuck, tokens that ran out. */
const SWEEP_MS = 5_000;
/** What was relayed is charged, and what is used up is withheld. */
const METER_MS = 1_000;
/** When machines were last seen, of those that came or went. */
const SAVE_SEEN_MS = 10_000;
const MINUTE_MS = 60_000;
const HOUR_MS = 60 * 60_000;

/** Listens when it resolves. Throws ListenError, StunServerError, NetworkError or DatabaseError. */
export async function higgsServer(deps: ServerDeps, options: ServerOptions): Promise<HiggsServer> {
  const { database, identity, tls, log, udpRelay = null } = deps;
  const network = await startNetwork(database, identity);
  const directory = await loadDirectory(database, (machine) => log.warn({ machine }, "stored record is unreadable"));
  const limiters = createLimiters(options.limits);
  const auth = new Auth({ network: network.identity, spki: tls.spki });
  const loads = new Loads();
  const relayUsage = await loadRelayUsage(database);
  const metrics = new MetricsStore(database);
  const requests = new RequestCounts();
  let port = options.listen.port;
  let stun: StunServer | null = null;
  const names = (): [string, ...string[]] => {
    const [first, ...rest] = options.publicNames;
    const text = (name: HostPort): string =>
      formatHostPort({ host: name.host, port: name.port === 0 ? port : name.port });
    return [text(first), ...rest.map(text)];
  };
  const fleet = new Fleet({
    database,
    directory,
    network,
    spki: tls.spki,
    auth,
    policy: defaultPolicy,
    commons: () => ({
      version: options.version,
      network: network.identity,
      range4: network.range4,
      range6: network.range6,
      servers: names(),
      relays: [RELAY_PATH],
      stun: stunNames(options.publicNames, stun),
    }),
    onRemoved: (machine) => {
      loads.forget(machine);
      metrics.forget(machine);
      routing.forget(machine);
      relayUsage.forget(machine);
    },
    udpRelay,
    relayUsage,
    quota: options.relayQuota ?? null,
    log,
  });
  const routing = new Routing({ fleet, loads, relayPath: RELAY_PATH });
  const health = new Health(database, () => (stun === null ? "off" : "healthy"));
  const api = createApi({
    fleet,
    auth,
    identity,
    network,
    spki: tls.spki,
    names,
    limiters,
    health,
    loads,
    routing,
    metrics,
    requests,
    version: options.version,
    log,
  });
  const listener = listen(
    { api, fleet, auth, limiters, tls, log },
    { listen: options.listen, trustedProxies: options.trustedProxies ?? [] },
  );
  port = listener.port;
  try {
    if (options.stunPort !== null) {
      stun = await stunServer(
        { limit: limiters.stun, users: fleet.stunUsers, log },
        { host: options.stunHost ?? options.listen.host, port: options.stunPort },
      );
    }
  } catch (thrown) {
    await listener.stop();
    throw thrown;
  }
  const controller = new AbortController();
  const { signal } = controller;
  const onError = (thrown: unknown): void => log.error({ error: errorText(thrown) }, "housekeeping failed");
  const loops = [
    repeat(
      () => {
        fleet.sweep();
        auth.sweep();
        return Promise.resolve();
      },
      { everyMs: SWEEP_MS, signal, onError },
    ),
    repeat(() => Promise.resolve(fleet.meter.tend()), { everyMs: METER_MS, signal, onError }),
    repeat(() => metrics.save(), { everyMs: MINUTE_MS, signal, onError }),
    repeat(() => relayUsage.save(), { everyMs: MINUTE_MS, signal, onError }),
    repeat(() => fleet.lastSeen.save(), { everyMs: SAVE_SEEN_MS, signal, onError }),
    repeat(
      async () => {
        fleet.lastSeen.noteOnline();
        await metrics.condense();
        await relayUsage.condense();
        await database.write((queries) => trimAudit(queries));
      },
      { everyMs: HOUR_MS, signal, onError },
    ),
  ];
  log.info({ port, stunPort: stun?.port, names: names(), machines: directory.size }, "server listening");

  const named = (name: string): Machine => {
    const machine = directory.named(name);
    if (machine === null) {
      throw new ServerError(`Cannot find a machine named "${name}".`, {
        code: "machine-unknown",
        remedy: "See which there are: higgs server machines",
      });
    }
    return machine;
  };
  let stopping: Promise<void> | null = null;
  const stop = async (): Promise<void> => {
    controller.abort(new Stopped("the server is stopping"));
    await Promise.all(loops);
    fleet.hub.endAll(GOING_AWAY, "the server is stopping");
    await stun?.[Symbol.asyncDispose]();
    await listener.stop();
    await fleet.lastSeen.save().catch(onError);
    await metrics.save({ everything: true }).catch(onError);
    await udpRelay?.count().catch(onError);
    fleet.meter.tend();
    await relayUsage.save().catch(onError);
  };
  return {
    port,
    stunPort: stun?.port ?? null,
    network: network.identity,
    get names() {
      return names();
    },
    status: () => ({
      version: options.version,
      uptimeS: health.uptimeS,
      machines: { total: directory.size, online: fleet.presence.online },
      sessions: fleet.sessions.size,
      relay: {
        connections: fleet.relay.connections,
        bytes: fleet.relay.counters.bytes + (udpRelay?.bytes ?? 0),
        kernel: udpRelay?.kernel ?? false,
      },
      health: quotaHealth(fleet),
    }),
    machines: () => machineSummaries(fleet),
    sessions: () => sessionSummaries(fleet),
    audit: (limit) => readAudit(database, limit),
    async invite(request) {
      const [first, ...rest] = options.publicNames;
      const real = (name: HostPort): HostPort => ({ host: name.host, port: name.port === 0 ? port : name.port });
      const made = await makeInvite(database, request, {
        network: network.identity,
        servers: [real(first), ...rest.map(real)],
      });
      return { text: formatInvite(made.invite), expiresAt: made.expiresAt, uses: made.uses };
    },
    invites: () => openInvites(database),
    async revokeInvite(id) {
      if (await revokeInvite(database, id)) return;
      throw new ServerError(`Cannot find an invite "${id}" that is still open.`, { code: "invite-unknown" });
    },
    prometheus: () =>
      prometheusText({ fleet, loads, requests, stun: stun?.counters ?? null, udpRelay, uptimeS: health.uptimeS }),
    backup: (path) => backupDatabase(database, path),
    async revoke(name) {
      await fleet.remove(named(name), "machine-revoked");
    },
    async rename(name, to) {
      await fleet.rename(named(name), to);
    },
    async tag(name, tags) {
      await fleet.tag(named(name), tags);
    },
    [Symbol.asyncDispose]: () => (stopping ??= stop()),
  };
}

/** RFC 6455 section 7.4.1. */
const GOING_AWAY = 1001;

/** As many as a welcome may have. */
const MOST_STUN_NAMES = 16;

/** STUN is found at the public names' hosts. */
function stunNames(publicNames: readonly HostPort[], stun: StunServer | null): string[] {
  if (stun === null) return [];
  const hosts = new Set(publicNames.map((name) => name.host));
  return [...hosts]
    .flatMap((host) => stun.ports.map((port) => formatHostPort({ host, port })))
    .slice(0, MOST_STUN_NAMES);
}
