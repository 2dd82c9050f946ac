// One server, reached and proven: its certificate is vouched for by the network's identity before anything secret is sent.
import { lookup } from "node:dns/promises";
import type { z } from "zod";
import { concatBytes, toBase64Url } from "../base/bytes.ts";
import { errorText, HiggsError } from "../base/errors.ts";
import { DeadlineExceeded, withDeadline } from "../base/async.ts";
import { type Endpoint, familyOf, formatHostPort, type HostPort, type IpAddress, parseIp } from "../base/ip.ts";
import { type HttpProxy, proxyName, proxyUrl } from "../net/http-proxy.ts";
import { connectThrough, type ProxyAt, ProxyError, proxyUnreachable } from "../net/proxy-connect.ts";
import { pinnedTls, probeLeaf, type ServerPin, TlsError } from "../net/tls.ts";
import { openWs, type Ws, type WsOptions } from "../net/ws.ts";
import { API_BASE, problemSchema, proofResponseSchema, VERSION_HEADER } from "../proto/api.ts";
import { type IdentityKey, verify } from "../proto/keys.ts";
import { serverProofMessage } from "../proto/proof.ts";

/** The server answered, and refused; `code` is the problem's own. */
export class ServerRefused extends HiggsError {
  override readonly name = "ServerRefused";
}

export class ServerUntrusted extends HiggsError {
  override readonly name = "ServerUntrusted";
}

export interface Door {
  readonly server: HostPort;
  /** The address that answered, the server's or the proxy's: the carrier's exact destination. */
  readonly endpoint: Endpoint;
  /** The server's, worth keeping, the one that answered first. Through a proxy, those that were known. */
  readonly addresses: readonly IpAddress[];
  /** The proxy's, likewise; empty without one. */
  readonly proxyAddresses: readonly IpAddress[];
  readonly pin: ServerPin;
  /** `host:port` of this server by its own signed word. */
  readonly names: readonly string[];
  /** A JSON request below `/api/v1`. Throws ServerRefused, or TlsError `server-unreachable`. */
  request<T>(method: "GET" | "POST" | "DELETE", path: string, options: RequestOptions<T>): Promise<T>;
  openWs(
    path: string,
    options: Omit<WsOptions, "url" | "headers" | "tls" | "proxyUrl"> & { token: string; version?: string },
    signal: AbortSignal,
  ): Promise<Ws>;
}

export interface RequestOptions<T> {
  readonly body?: unknown;
  readonly token?: string;
  readonly response: z.ZodType<T>;
  readonly signal: AbortSignal;
}

/** Refusals that say nothing about who the server is. */
const PASSING: ReadonlySet<string> = new Set(["rate-limited", "internal", "stopping"]);

/** A name of many addresses must not make a reconnect, or the list of what may pass outside the tunnel, endless. */
const MOST_ADDRESSES = 8;
const REQUEST_TIMEOUT_MS = 10_000;
const CONNECT_TIMEOUT_MS = 5_000;
/**
 * For the name of a server whose known addresses do not answer: a client asks through its tunnel, which the missing server may be
 * the only way of, and its address will most likely be the same when it is back.
 */
const RESOLVE_AGAIN_MS = 1_000;
/** What is asked for here is a few hundred bytes; the map comes over the control stream. */
const MOST_ANSWER_BYTES = 1024 * 1024;

export interface DoorHints {
  readonly addresses: readonly IpAddress[];
  readonly pin: ServerPin | null;
  /** The way there, with its kept addresses; null for none. The proxy is given the server's name, and resolves it. */
  readonly proxy?: { readonly proxy: HttpProxy; readonly addresses: readonly IpAddress[] } | null;
}

/**
 * Tries each address of the server, or of the proxy: the kept ones first, then what its name resolves to.
 * Throws TlsError `server-unreachable` | `server-no-tls`, ServerUntrusted `server-not-proven`, or ProxyError.
 */
export async function openDoor(
  server: HostPort,
  network: IdentityKey,
  hints: DoorHints,
  signal: AbortSignal,
): Promise<Door> {
  let failure: unknown;
  const proxy = hints.proxy?.proxy ?? null;
  const known = hints.proxy?.addresses ?? hints.addresses;
  const tried = new Set<IpAddress>();
  const timeoutMs = known.length === 0 ? CONNECT_TIMEOUT_MS : RESOLVE_AGAIN_MS;
  for (const find of [() => Promise.resolve(known), () => resolveHost({ server, proxy }, { timeoutMs, signal })]) {
    let addresses: readonly IpAddress[];
    try {
      addresses = await find();
    } catch (thrown) {
      signal.throwIfAborted();
      failure ??= thrown; // that a known address does not answer says more
      continue;
    }
    for (const address of addresses) {
      if (tried.has(address)) continue;
      tried.add(address);
      const kept = worthKeeping([...known, ...addresses], { address, tried });
      const way: Way =
        proxy === null
          ? { via: null, address, addresses: kept, proxyAddresses: [] }
          : { via: { proxy, address }, address, addresses: hints.addresses, proxyAddresses: kept };
      try {
        return await provenDoor({ server, network, pin: hints.pin, way }, signal);
      } catch (thrown) {
        signal.throwIfAborted();
        // Its other addresses lead to the same limit, and those of a proxy that answers to the same server.
        if (thrown instanceof ServerRefused && thrown.code === "rate-limited") throw thrown;
        if (proxy !== null && !(thrown instanceof ProxyError && thrown.code === "proxy-unreachable")) throw thrown;
        // A server that fails its proof says more than one that does not answer.
        if (!(failure instanceof ServerUntrusted)) failure = thrown;
      }
    }
  }
  throw failure;
}

/**
 * `address` answers. Those that did not are let go, but for the other family's: on the next network that may be the only one,
 * and the name cannot be asked for then.
 */
function worthKeeping(
  all: readonly IpAddress[],
  { address, tried }: { readonly address: IpAddress; readonly tried: ReadonlySet<IpAddress> },
): IpAddress[] {
  const untried = all.filter((one) => !tried.has(one));
  const others = all.filter((one) => tried.has(one) && familyOf(one) !== familyOf(address));
  return [...new Set([address, ...untried, ...others])].slice(0, MOST_ADDRESSES);
}

async function resolveHost(
  { server, proxy }: { readonly server: HostPort; readonly proxy: HttpProxy | null },
  { timeoutMs, signal }: { readonly timeoutMs: number; readonly signal: AbortSignal },
): Promise<IpAddress[]> {
  const { host } = proxy?.server ?? server;
  const literal = parseIp(host);
  if (literal !== null) return [literal];
  try {
    const found = await withDeadline(`resolve ${host}`, () => lookup(host, { all: true }), { timeoutMs, signal });
    return found.map((entry) => parseIp(entry.address)).filter((address) => address !== null);
  } catch (cause) {
    signal.throwIfAborted();
    if (proxy !== null) throw proxyUnreachable(proxy, server, cause, "the proxy's name does not resolve");
    throw new TlsError(`Cannot reach the server at ${formatHostPort(server)}: its name does not resolve.`, {
      code: "server-unreachable",
      remedy: "Check the spelling of the name, and that this machine has DNS.",
      cause,
    });
  }
}

/** How the server is reached: at an address of its own, or through a proxy at one of the proxy's. */
interface Way {
  readonly via: ProxyAt | null;
  readonly address: IpAddress;
  readonly addresses: readonly IpAddress[];
  readonly proxyAddresses: readonly IpAddress[];
}

interface Candidate {
  readonly server: HostPort;
  readonly way: Way;
  readonly network: IdentityKey;
  readonly pin: ServerPin | null;
}

async function provenDoor(candidate: Candidate, signal: AbortSignal): Promise<Door> {
  const { pin, server } = candidate;
  const { via, address } = candidate.way;
  const what = `reach the server at ${formatHostPort(server)}`;
  const limits = { timeoutMs: CONNECT_TIMEOUT_MS, signal };
  try {
    if (pin !== null) {
      try {
        return await withDeadline(what, (limited) => proveDoor(candidate, pin, limited), limits);
      } catch (thrown) {
        // A renewed certificate fails at TLS; it is looked at and proven anew below.
        if (!(thrown instanceof TlsError) || thrown.code !== "server-key-changed") throw thrown;
      }
    }
    const leaf = await withDeadline(
      what,
      async (limited) => {
        const socket = via === null ? null : await connectThrough(via, server, limited);
        const target = { address, port: server.port, serverName: server.host };
        return await probeLeaf(socket === null ? target : { ...target, socket }, limited);
      },
      limits,
    );
    return await proveDoor(candidate, leaf, signal);
  } catch (thrown) {
    signal.throwIfAborted();
    if (via === null || !(thrown instanceof DeadlineExceeded)) throw thrown;
    throw proxyUnreachable(via.proxy, server, thrown, "neither the proxy nor the server behind it answers in time");
  }
}

async function proveDoor(candidate: Candidate, pin: ServerPin, signal: AbortSignal): Promise<Door> {
  const nonce = crypto.getRandomValues(new Uint8Array(32));
  const door = pinnedDoor(candidate, pin, []);
  let proof: z.infer<typeof proofResponseSchema>;
  try {
    proof = await door.request("POST", "/proof", {
      body: { nonce: toBase64Url(nonce) },
      response: proofResponseSchema,
      signal,
    });
  } catch (thrown) {
    // Too many at once, or a server that is going down: it has not said who it is yet, and it is asked again.
    if (thrown instanceof ServerRefused && PASSING.has(thrown.code)) throw thrown;
    if (thrown instanceof ServerRefused) throw untrusted(candidate, "it gave no proof of who it is", thrown);
    throw thrown;
  }
  if (proof.network !== candidate.network) throw untrusted(candidate, "it belongs to another network");
  if (proof.spki !== pin.spki)
    throw untrusted(candidate, "its certificate is not the one that its network vouches for");
  const message = serverProofMessage({ nonce, spki: pin.spki, names: proof.names });
  if (!verify("higgs server proof v1", message, { key: candidate.network, signature: proof.signature })) {
    throw untrusted(candidate, "the signature of its proof is wrong");
  }
  return pinnedDoor(candidate, pin, proof.names);
}

function untrusted(candidate: Candidate, why: string, cause?: unknown): ServerUntrusted {
  return new ServerUntrusted(`Cannot trust the server at ${formatHostPort(candidate.server)}: ${why}.`, {
    code: "server-not-proven",
    remedy:
      "Somebody may be in between, or the address now belongs to someone else. Check it with the network's owner.",
    cause,
  });
}

function pinnedDoor(candidate: Candidate, pin: ServerPin, names: readonly string[]): Door {
  const { server, way } = candidate;
  const { via, address } = way;
  const host = formatHostPort(server);
  const authority = via === null ? formatHostPort({ host: address, port: server.port }) : host;
  const proxied = via === null ? null : proxyUrl(via.proxy, via.address);
  const tls = pinnedTls(pin, server.host);
  return {
    server,
    endpoint: { address, port: via?.proxy.server.port ?? server.port },
    addresses: way.addresses,
    proxyAddresses: way.proxyAddresses,
    pin,
    names,
    async request(method, path, options) {
      return await withDeadline(
        `reach the server at ${host}`,
        async (signal) => {
          const response = await fetch(`https://${authority}${API_BASE}${path}`, {
            method,
            headers: {
              host,
              ...(options.body === undefined ? {} : { "content-type": "application/json" }),
              ...(options.token === undefined ? {} : { authorization: `Bearer ${options.token}` }),
            },
            ...(options.body === undefined ? {} : { body: JSON.stringify(options.body) }),
            ...(proxied === null ? {} : { proxy: proxied }),
            tls,
            redirect: "error",
            signal,
          });
          // Within the deadline: an answer may be endless.
          return await readAnswer(response, host, options.response);
        },
        { timeoutMs: REQUEST_TIMEOUT_MS, signal: options.signal },
      ).catch(async (thrown: unknown) => {
        options.signal.throwIfAborted();
        const error = asTlsError(host, thrown);
        if (error.code === "server-unreachable") await sayWhatProxySays(candidate, options.signal);
        throw error;
      });
    },
    async openWs(path, options, signal) {
      const { token, version, ...rest } = options;
      const headers = {
        host,
        authorization: `Bearer ${token}`,
        ...(version === undefined ? {} : { [VERSION_HEADER]: version }),
      };
      const where = { url: `wss://${authority}${path}`, ...(proxied === null ? {} : { proxyUrl: proxied }) };
      try {
        return await openWs({ ...rest, ...where, headers, tls }, signal);
      } catch (thrown) {
        signal.throwIfAborted();
        await sayWhatProxySays(candidate, signal);
        throw thrown;
      }
    },
  };
}

/** fetch and WebSocket tell little of why a proxy let nothing through: it is asked once more, and what it says is thrown. */
async function sayWhatProxySays({ server, way }: Candidate, signal: AbortSignal): Promise<void> {
  const { via } = way;
  if (via === null) return;
  try {
    const socket = await withDeadline(
      `reach the proxy at ${proxyName(via.proxy)}`,
      (limited) => connectThrough(via, server, limited),
      { timeoutMs: CONNECT_TIMEOUT_MS, signal },
    );
    socket.destroy();
  } catch (thrown) {
    signal.throwIfAborted();
    if (thrown instanceof ProxyError) throw thrown;
    throw proxyUnreachable(via.proxy, server, thrown);
  }
}

function asTlsError(host: string, thrown: unknown): HiggsError {
  if (thrown instanceof HiggsError) return thrown;
  const text = `${(thrown as { code?: string }).code ?? ""} ${errorText(thrown)}`;
  if (/CERT|SELF_SIGNED|SELF-SIGNED|UNABLE_TO|certificate|issuer/i.test(text)) {
    return new TlsError(`Cannot trust the certificate of ${host}: ${errorText(thrown)}.`, {
      code: "server-key-changed",
      remedy: "Check that it is the server of your network that answers there, and that nobody is in between.",
      cause: thrown,
    });
  }
  return new TlsError(`Cannot reach the server at ${host}: it does not answer.`, {
    code: "server-unreachable",
    remedy: "Check that `higgs server` runs there and that its TCP port is open.",
    cause: thrown,
  });
}

async function readAnswer<T>(response: Response, host: string, schema: z.ZodType<T>): Promise<T> {
  const text = await boundedText(response);
  const json = text === null || text === "" ? undefined : parseJson(text);
  if (!response.ok) {
    const problem = problemSchema.safeParse(json);
    if (!problem.success) {
      throw new ServerRefused(
        `Cannot use what ${host} answers: status ${response.status}, and it does not speak higgs.`,
        {
          code: "server-not-higgs",
          remedy: "Check the host and the port: the server's own are in the invite that it printed.",
        },
      );
    }
    throw new ServerRefused(problem.data.detail, {
      code: problem.data.code,
      ...(problem.data.remedy === undefined ? {} : { remedy: problem.data.remedy }),
      detail: { status: response.status, ...retryAfter(response.headers) },
    });
  }
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  throw new ServerRefused(`Cannot understand the answer of ${host}: it is of another version, or no higgs server.`, {
    code: "server-not-higgs",
    remedy: "Update higgs on this machine or on the server.",
    detail: { issues: parsed.error.issues.slice(0, 3) },
  });
}

/** RFC 9110 section 10.2.3; of its two forms the one in seconds, which is the server's. */
function retryAfter(headers: Headers): { retryAfterMs?: number } {
  const text = headers.get("retry-after") ?? "";
  return /^\d{1,9}$/.test(text) ? { retryAfterMs: Number(text) * 1000 } : {};
}

/** Null for what is longer than any answer of ours; the rest of it is not read. */
async function boundedText(response: Response): Promise<string | null> {
  const parts: Uint8Array[] = [];
  let length = 0;
  const body: AsyncIterable<Uint8Array> | null = response.body;
  if (body === null) return "";
  for await (const part of body) {
    length += part.length;
    if (length > MOST_ANSWER_BYTES) return null;
    parts.push(part);
  }
  return new TextDecoder().decode(concatBytes(...parts));
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // then the schema refuses it
  }
}
