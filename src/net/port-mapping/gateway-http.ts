// HTTP with the router: no proxy, no redirect, no more than a small body, all within a deadline.
import { type IncomingMessage, request as httpRequest } from "node:http";
import { withDeadline } from "../../base/async.ts";

export interface GatewayRequest {
  readonly url: URL;
  /** With one, it is a POST. */
  readonly body?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly mostBytes: number;
  readonly timeoutMs: number;
}

export interface GatewayReply {
  readonly status: number;
  readonly body: string;
}

/** Null for a router that does not answer, or says more than it may. Throws only `signal.reason`. */
export async function askGateway(asked: GatewayRequest, signal: AbortSignal): Promise<GatewayReply | null> {
  try {
    return await withDeadline("ask the router", (deadline) => exchange(asked, deadline), {
      timeoutMs: asked.timeoutMs,
      signal,
    });
  } catch {
    signal.throwIfAborted();
    return null;
  }
}

/** The client of node:http neither follows redirects nor reads a proxy from the environment. */
function exchange(
  { url, body, headers, mostBytes }: GatewayRequest,
  signal: AbortSignal,
): Promise<GatewayReply | null> {
  return new Promise((resolve, reject) => {
    const asking = httpRequest(
      {
        host: url.hostname,
        port: url.port === "" ? 80 : Number(url.port),
        path: `${url.pathname}${url.search}`,
        method: body === undefined ? "GET" : "POST",
        headers: { ...headers, "accept-encoding": "identity", connection: "close" },
        agent: false,
        signal,
      },
      (reply: IncomingMessage) => {
        const parts: Uint8Array[] = [];
        let length = 0;
        reply.on("data", (part: Uint8Array) => {
          length += part.length;
          if (length <= mostBytes) {
            parts.push(part);
            return;
          }
          resolve(null);
          asking.destroy();
        });
        reply.on("end", () => resolve({ status: reply.statusCode ?? 0, body: Buffer.concat(parts).toString("utf8") }));
        reply.on("error", reject);
      },
    );
    asking.on("error", reject);
    asking.end(body);
  });
}
