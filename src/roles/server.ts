// The role `server`: coordinates, relays and stores; assembled from its parts, behind its local control sockets.
import { networkInterfaces } from "node:os";
import { z } from "zod";
import { cidrParts, type HostPort, parseCidr, parseHostPort, parseIp } from "../base/ip.ts";
import { DEFAULT_PORT } from "../proto/invite.ts";
import type { Role } from "../proto/role.ts";
import { openServerState, type TlsChoice } from "../server/first-start.ts";
import { parseNetworkRange } from "../server/network.ts";
import { type HiggsServer, higgsServer } from "../server/server.ts";
import { type Config, UsageError } from "./config.ts";
import { bodyOf } from "./machine-verbs.ts";
import { startRuntime } from "./runtime.ts";
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
  const listen = listenAddress(config);
  const publicNames = publicNamesOf(config, listen.port);
  const tls = tlsChoice(config, publicNames);
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
  await using server = await higgsServer(
    { database: state.database, identity: state.identity, tls: state.tls, log },
    {
      listen,
      publicNames,
      stunPort: config.stunPort,
      trustedProxies: config.trustedProxy.map(proxyPrefix),
      version: VERSION,
    },
  );
  await runtime.serve(verbsOf(server));
  // The lines are for the person who sets the network up; whoever starts it again has machines, or makes an invite.
  const invites: { role: Role; command: string }[] = [];
  if (server.machines().length === 0) {
    for (const role of ["node", "client"] as const) {
      const { text } = await server.invite({ role });
      invites.push({ role, command: commandFor(role, text) });
    }
  }
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

function verbsOf(server: HiggsServer) {
  return {
    everyday: {
      hello: () => ({ pid: process.pid }),
      status: () => ({ schema: "higgs.server-status/1", ...server.status() }),
      machines: () => ({ schema: "higgs.server-machines/1", machines: server.machines() }),
      sessions: () => ({ schema: "higgs.server-sessions/1", sessions: server.sessions() }),
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
    },
  };
}

/** With `--tls off` a reverse proxy on the same machine is the only one that may talk to us. */
function listenAddress(config: Config<"server">): HostPort {
  const listen = parseHostPort(config.listen, DEFAULT_PORT) ?? { host: "::", port: DEFAULT_PORT };
  if (config.tls !== "off") return listen;
  return { host: isLoopback(listen.host) ? listen.host : "127.0.0.1", port: listen.port };
}

function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || host.startsWith("127.");
}

/** `--public`, or every address of this machine that the internet could route, or any at all. */
function publicNamesOf(config: Config<"server">, port: number): readonly [HostPort, ...HostPort[]] {
  if (config.public !== null) {
    const name = parseHostPort(config.public, config.tls === "off" ? DEFAULT_PORT : port);
    if (name !== null) return [name];
  }
  const addresses = Object.values(networkInterfaces())
    .flatMap((entries) => entries ?? [])
    .filter((entry) => !entry.internal && !entry.address.startsWith("fe80:"))
    .map((entry) => parseIp(entry.address))
    .filter((address) => address !== null);
  const open = addresses.filter((address) => !isPrivate(address));
  const [first, ...rest] = (open.length > 0 ? open : addresses).map((host) => ({ host, port }));
  if (first !== undefined) return [first, ...rest];
  throw new UsageError("Cannot tell by which address machines reach this server: it has none but loopback.", {
    code: "usage",
    remedy: "--public HOST[:PORT]",
  });
}

/** RFC 1918, RFC 6598, RFC 4193. */
function isPrivate(address: string): boolean {
  return /^(10\.|192\.168\.|172\.(1[6-9]|2\d|3[01])\.|100\.(6[4-9]|[7-9]\d|1[01]\d|12[0-7])\.|169\.254\.|f[cd])/.test(
    address,
  );
}

function tlsChoice(config: Config<"server">, publicNames: readonly HostPort[]): TlsChoice {
  const { cert, key } = config;
  switch (config.tls) {
    case "self":
      return { kind: "self", hosts: publicNames.map((name) => name.host) };
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

function proxyPrefix(text: string) {
  const address = parseIp(text);
  const prefix = parseCidr(address === null ? text : `${text}/${text.includes(":") ? 128 : 32}`);
  if (prefix !== null && cidrParts(prefix).length > 0) return prefix;
  throw new UsageError(`Cannot use "${text}" for --trusted-proxy: it is no address or prefix.`, { code: "usage" });
}
