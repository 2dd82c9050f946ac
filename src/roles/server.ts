// The role `server`: coordinates, relays and stores; assembled from its parts, behind its local control sockets.
import { networkInterfaces } from "node:os";
import { z } from "zod";
import type { HostPort } from "../base/ip.ts";
import type { Role } from "../proto/role.ts";
import { openServerState, type TlsChoice } from "../server/first-start.ts";
import { parseNetworkRange } from "../server/network.ts";
import { type HiggsServer, higgsServer } from "../server/server.ts";
import { type Config, UsageError } from "./config.ts";
import { bodyOf } from "./machine-verbs.ts";
import { requireLinux } from "../net/os.ts";
import { startRuntime } from "./runtime.ts";
import { listenAddress, publicNames, stunHost, trustedProxies } from "./server-addresses.ts";
import { openServerRelay } from "./server-relay.ts";
import { relayState } from "./state.ts";
import { VERSION } from "./version.ts";

export interface ServerReady {
  /** `host:port`, as machines reach it. */
  readonly names: readonly string[];
  /** Made at the first start: the two lines that a person pastes. */
  readonly invites: readonly { readonly role: Role; readonly command: string }[];
}

export interface ServerCallbacks {
  /** Takes one line of JSON. */
  readonly write: (line: string) => void;
  readonly onReady: (ready: ServerReady) => void;
}

/** Runs until a signal. Throws UsageError, AlreadyRunning, or what the server's parts throw. */
export async function runServer(config: Config<"server">, callbacks: ServerCallbacks): Promise<void> {
  requireLinux("run a server");
  const listen = listenAddress(config);
  const interfaces = Object.values(networkInterfaces()).flatMap((entries) => entries ?? []);
  const names = publicNames(config, listen.port, interfaces);
  const tls = tlsChoice(config, names);
  await using runtime = await startRuntime({
    role: "server",
    runDir: config.run,
    logLevel: config.logLevel,
    write: callbacks.write,
  });
  const { log, signal } = runtime;
  const state = await openServerState({
    stateDir: config.state,
    databaseUrl: config.db,
    tls,
    networkRange: config.networkRange === null ? null : parseNetworkRange(config.networkRange),
    log,
    // The name that libsql's own tools use; a token has no place in argv.
    ...(process.env.LIBSQL_AUTH_TOKEN === undefined ? {} : { databaseToken: process.env.LIBSQL_AUTH_TOKEN }),
  });
  await using _database = state.database;
  await using udpRelay = await openServerRelay(
    { names, interfaces, ports: config.relayPorts, stateDir: config.state, hasQuota: config.relayQuota !== null },
    log,
    signal,
  );
  await using server = await higgsServer(
    { database: state.database, identity: state.identity, tls: state.tls, udpRelay, log },
    {
      listen,
      publicNames: names,
      stunPort: config.stunPort,
      stunHost: stunHost(config),
      trustedProxies: trustedProxies(config),
      relayQuota: config.relayQuota,
      version: VERSION,
    },
  );
  await runtime.serve(verbsOf(server, config.state));
  // The lines are for the person who sets the network up; whoever starts it again has machines, or makes an invite.
  const invites: { role: Role; command: string }[] = [];
  // A service's words are kept in a journal that others read; install asks for the lines and shows them.
  if (server.machines().length === 0 && !runtime.isService) {
    for (const role of ["node", "client"] as const) {
      const { text } = await server.invite({ role });
      invites.push({ role, command: commandFor(role, text) });
    }
  }
  runtime.ready();
  callbacks.onReady({ names: server.names, invites });
  await new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

export function commandFor(role: Role, invite: string): string {
  return role === "node" ? `sudo higgs node --join '${invite}'` : `sudo higgs client up --join '${invite}'`;
}

const inviteBody = z.object({
  role: z.enum(["node", "client"]),
  name: z.string().max(63).nullable(),
  tags: z.array(z.string().max(32)).max(16),
  uses: z.number().int().min(1),
  expiresMs: z.number().positive(),
});
const nameBody = z.object({ name: z.string().max(63) });
const auditBody = z.object({ limit: z.number().int().min(1).max(1000).default(50) });
const renameBody = z.object({ name: z.string().max(63), to: z.string().max(63) });
const tagBody = z.object({ name: z.string().max(63), tags: z.array(z.string().max(32)).max(64) });
const backupBody = z.object({ path: z.string().startsWith("/").max(4096) });

function verbsOf(server: HiggsServer, stateDir: string) {
  return {
    everyday: {
      hello: () => ({ pid: process.pid }),
      status: () => ({ schema: "higgs.server-status/1", ...server.status() }),
      machines: () => ({ schema: "higgs.server-machines/1", machines: server.machines() }),
      "state-list": async (_body: unknown, signal: AbortSignal) => ({ changes: await relayState(stateDir, signal) }),
      verify: async (_body: unknown, signal: AbortSignal) => {
        const isThere = (await relayState(stateDir, signal)).some((change) => change.kind === "table");
        const isMissing = server.status().relay.kernel && !isThere;
        return { differences: isMissing ? ["The nft table of the UDP relay is missing; it is being made anew."] : [] };
      },
      sessions: () => ({ schema: "higgs.server-sessions/1", sessions: server.sessions() }),
      audit: async (body: unknown) => {
        const entries = await server.audit(bodyOf(auditBody, body).limit);
        return {
          schema: "higgs.server-audit/1",
          entries: entries.map((entry) => ({ ...entry, at: new Date(entry.at).toISOString() })),
        };
      },
    },
    admin: {
      invite: async (body: unknown) => {
        const { role, name, tags, uses, expiresMs } = bodyOf(inviteBody, body);
        const made = await server.invite({
          role,
          tags,
          uses,
          expiresInMs: expiresMs,
          ...(name === null ? {} : { name }),
        });
        return {
          schema: "higgs.server-invite/1",
          invite: made.text,
          command: commandFor(role, made.text),
          expiresAt: new Date(made.expiresAt).toISOString(),
          uses: made.uses,
        };
      },
      revoke: async (body: unknown) => {
        await server.revoke(bodyOf(nameBody, body).name);
      },
      rename: async (body: unknown) => {
        const { name, to } = bodyOf(renameBody, body);
        await server.rename(name, to);
      },
      tag: async (body: unknown) => {
        const { name, tags } = bodyOf(tagBody, body);
        await server.tag(name, tags);
      },
      backup: async (body: unknown) => {
        await server.backup(bodyOf(backupBody, body).path);
      },
    },
  };
}

function tlsChoice(config: Config<"server">, names: readonly HostPort[]): TlsChoice {
  const { cert, key } = config;
  switch (config.tls) {
    case "self":
      return { kind: "self", hosts: names.map((name) => name.host) };
    case "files":
      if (cert !== null && key !== null) return { kind: "files", certPath: cert, keyPath: key };
      throw new UsageError("Cannot use --tls files without both --cert and --key.", { code: "usage" });
    case "off":
      if (cert !== null) return { kind: "proxy", certPath: cert };
      throw new UsageError(
        "Cannot use --tls off without --cert: the reverse proxy's certificate must be vouched for.",
        {
          code: "usage",
          remedy: "--cert FILE, the certificate (PEM) that the proxy shows",
        },
      );
    case "acme":
      throw new UsageError("Cannot use --tls acme: it is not supported yet.", {
        code: "usage",
        remedy: "--tls self needs no domain and is as safe; or --tls files --cert FILE --key FILE",
      });
  }
}
