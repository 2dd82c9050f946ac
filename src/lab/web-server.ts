// The lab's web server: tells callers the address that they seem to have, streams bytes, and swallows uploads.
import type { Service } from "../base/service.ts";

export interface WebServerOptions {
  /** One listener each; both families are usual. */
  readonly addresses: readonly string[];
  readonly port: number;
}

/** What GET /json gives. */
export interface WebAnswer {
  readonly address: string;
  readonly family: 4 | 6;
  readonly port: number;
}

const CHUNK = new Uint8Array(64 << 10);
const BYTES_LIMIT = 2 ** 40;
const UPLOAD_LIMIT_BYTES = 2 ** 40;

/**
 * GET / is the caller's address as text, /json the same as JSON, /bytes?n=N streams N zero bytes, POST /sink answers with
 * how many bytes came.
 */
export async function runWeb(options: WebServerOptions): Promise<Service> {
  const stack = new AsyncDisposableStack();
  try {
    for (const hostname of options.addresses) {
      const server = Bun.serve({
        hostname,
        port: options.port,
        maxRequestBodySize: UPLOAD_LIMIT_BYTES,
        idleTimeout: 0, // a transfer through a broken path may rest for long, and must then go on
        fetch(request, self) {
          const caller = self.requestIP(request);
          return respond(request, { address: plainAddress(caller?.address ?? ""), port: caller?.port ?? 0 });
        },
      });
      stack.defer(() => server.stop(true));
    }
    return stack.move();
  } catch (thrown) {
    await stack.disposeAsync();
    throw thrown;
  }
}

/** IPv4 seen through an IPv6 socket becomes plain IPv4. */
export function plainAddress(address: string): string {
  return address.replace(/^::ffff:(?=\d+\.)/i, "");
}

async function respond(
  request: Request,
  caller: { readonly address: string; readonly port: number },
): Promise<Response> {
  const url = new URL(request.url);
  switch (`${request.method} ${url.pathname}`) {
    case "GET /":
      return new Response(`${caller.address}\n`);
    case "GET /json": {
      const answer: WebAnswer = { ...caller, family: caller.address.includes(":") ? 6 : 4 };
      return Response.json(answer);
    }
    case "GET /bytes":
      return zeros(Number(url.searchParams.get("n") ?? "0"));
    case "POST /sink": {
      let bytes = 0;
      if (request.body !== null) {
        const body: AsyncIterable<Uint8Array> = request.body;
        for await (const chunk of body) bytes += chunk.length;
      }
      return Response.json({ bytes });
    }
    default:
      return new Response("Not found\n", { status: 404 });
  }
}

function zeros(count: number): Response {
  if (!Number.isSafeInteger(count) || count < 0 || count > BYTES_LIMIT) {
    return new Response("n must be a number of bytes\n", { status: 400 });
  }
  let left = count;
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      if (left === 0) {
        controller.close();
        return;
      }
      const chunk = left < CHUNK.length ? CHUNK.slice(0, left) : CHUNK.slice();
      left -= chunk.length;
      controller.enqueue(chunk);
    },
  });
  return new Response(body, {
    headers: { "content-type": "application/octet-stream", "content-length": String(count) },
  });
}
