// The one port for everything: HTTP goes to the API, and the two WebSockets are upgraded here, where their backpressure can be seen.
import { errorText, HiggsError } from "../base/errors.ts";
import { type Cidr, formatHostPort, type HostPort, type IpAddress } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import { API_BASE, VERSION_HEADER, versionSchema } from "../proto/api.ts";
import { MOST_FRAME_BYTES } from "../proto/relay-frame.ts";
import type { Auth } from "./auth.ts";
import type { createApi } from "./api/app.ts";
import { machineByToken, refuseBrowsers } from "./api/guard.ts";
import { ApiError, invalid, isExpected, problemResponse, rateLimited, unauthenticated } from "./api/problem.ts";
import { callerAddress, limitKey } from "./caller-address.ts";
import type { ServerTls } from "./certificate.ts";
import type { Fleet } from "./fleet.ts";
import type { Limiters } from "./limiters.ts";
import { readBody } from "./request-body.ts";
import type { SocketData } from "./socket.ts";

export class ListenError extends HiggsError {
  override readonly name = "ListenError";
}

export const CONTROL_PATH = `${API_BASE}/control`;
export const RELAY_PATH = `${API_BASE}/relay`;

/** Seconds without a byte, while a request is on its way. */
const HTTP_IDLE_S = 10;
/** Seconds without a byte from a WebSocket's other side, pings and their answers included; then it is gone. */
const SOCKET_IDLE_S = 60;
/** Only a backstop: the relay drops and the control stream waits long before. A welcome in a large network may be some megabytes. */
const BACKPRESSURE_BYTES = 16 * 1024 * 1024;

export interface ListenDeps {
  readonly api: ReturnType<typeof createApi>;
  readonly fleet: Fleet;
  readonly auth: Auth;
  readonly limiters: Limiters;
  readonly tls: ServerTls;
  readonly log: Logger;
}

export interface Listener {
  readonly port: number;
  /** Cuts what is still open. */
  stop(): Promise<void>;
}

/** Throws ListenError `port-busy`, `port-privileged` or `listen-failed`. */
export function listen(
  deps: ListenDeps,
  options: { readonly listen: HostPort; readonly trustedProxies: readonly Cidr[] },
): Listener {
  const { host, port } = options.listen;
  const start = (hostname: string) =>
    Bun.serve({
      hostname,
      port,
      ...(deps.tls.keyPem === null ? {} : { tls: { cert: deps.tls.certPem, key: deps.tls.keyPem } }),
      idleTimeout: HTTP_IDLE_S,
      // Bodies are bounded as they are read, with an answer that says so; this is for whoever goes on regardless.
      maxRequestBodySize: 1024 * 1024,
      development: false,
      // Without development Bun would share the port with another server, and each would get some of the connections.
      reusePort: false,
      async fetch(request, server) {
        try {
          const address = callerAddress(
            server.requestIP(request)?.address ?? "",
            request.headers.get("x-forwarded-for"),
            options.trustedProxies,
          );
          const pathname = pathOf(request);
          if (pathname === CONTROL_PATH || pathname === RELAY_PATH) {
            const data = admit(deps, request, { address, pathname });
            if (server.upgrade(request, { data })) return undefined;
            throw new ApiError("Cannot talk here: this is for WebSockets.", { code: "no-upgrade" });
          }
          return await deps.api.fetch(await whole(request), { address });
        } catch (thrown) {
          if (!isExpected(thrown)) deps.log.error({ error: errorText(thrown) }, "request failed");
          const response = problemResponse(thrown);
          // Part of the body may not have been read.
          response.headers.set("connection", "close");
          return response;
        }
      },
      websocket: {
        data: {} as SocketData,
        perMessageDeflate: false, // ciphertext does not compress
        maxPayloadLength: MOST_FRAME_BYTES,
        idleTimeout: SOCKET_IDLE_S,
        sendPings: true,
        backpressureLimit: BACKPRESSURE_BYTES,
        closeOnBackpressureLimit: false,
        open: (socket) => socket.data.events.open(socket),
        message: (socket, data) => socket.data.events.message(data),
        drain: (socket) => socket.data.events.drain(),
        pong: (socket, payload) => socket.data.events.pong?.(payload),
        close: (socket) => socket.data.events.close(),
      },
    });
  let server: ReturnType<typeof start>;
  try {
    server = start(host);
  } catch (thrown) {
    if (host !== "::" || codeOf(thrown) === "EADDRINUSE" || codeOf(thrown) === "EACCES")
      throw listenError(thrown, options.listen);
    try {
      server = start("0.0.0.0"); // a kernel without IPv6
    } catch (again) {
      throw listenError(again, options.listen);
    }
  }
  return {
    port: server.port ?? port,
    stop: () => server.stop(true),
  };
}

function pathOf(request: Request): string {
  const url = URL.parse(request.url);
  if (url === null) throw invalid("its Host header is none");
  return url.pathname;
}

/** Checks everything before the upgrade: a connection that is open belongs to a machine. */
function admit(
  deps: ListenDeps,
  request: Request,
  at: { readonly address: IpAddress | null; readonly pathname: string },
): SocketData {
  const machine = machineByToken(deps, request.headers);
  // As in the API: a right token counts against its machine, so that neighbours behind one NAT do not use each other's up.
  const waitMs = deps.limiters.upgrade.take(machine?.id ?? limitKey(at.address));
  if (waitMs > 0) throw rateLimited(waitMs);
  refuseBrowsers(request.headers);
  if (request.method !== "GET") throw new ApiError("Cannot talk here: this is for WebSockets.", { code: "no-upgrade" });
  if (machine === null) throw unauthenticated();
  return at.pathname === CONTROL_PATH
    ? { kind: "control", events: deps.fleet.accept(machine, at.address, versionOf(request.headers)) }
    : { kind: "relay", events: deps.fleet.relay.accept(machine.id) };
}

/** Null where it is not told, or is none. */
function versionOf(headers: Headers): string | null {
  const version = versionSchema.safeParse(headers.get(VERSION_HEADER) || null);
  return version.success ? version.data : null;
}

/** The same request with its body in memory. */
async function whole(request: Request): Promise<Request> {
  const body = await readBody(request);
  if (body === null) return request;
  return new Request(request.url, { method: request.method, headers: request.headers, body });
}

function codeOf(thrown: unknown): string {
  return thrown instanceof Error && "code" in thrown ? String(thrown.code) : "";
}

function listenError(thrown: unknown, target: HostPort): ListenError {
  const where = formatHostPort(target);
  switch (codeOf(thrown)) {
    case "EADDRINUSE":
      return new ListenError(`Cannot listen on ${where}: TCP port ${target.port} is in use.`, {
        code: "port-busy",
        remedy: `See who has it: ss -tlnp 'sport = :${target.port}', or choose another port: --listen [::]:8443`,
        detail: { port: target.port },
        cause: thrown,
      });
    case "EACCES":
      return new ListenError(`Cannot listen on ${where}: ports below 1024 need a privilege.`, {
        code: "port-privileged",
        remedy: "Start it with sudo, or choose another port: --listen [::]:8443",
        cause: thrown,
      });
    default:
      return new ListenError(
        `Cannot listen on ${where}: this machine has no such address, or the certificate and its key do not fit.`,
        {
          code: "listen-failed",
          remedy: "Look at --listen, --cert and --key.",
          cause: thrown,
        },
      );
  }
}
