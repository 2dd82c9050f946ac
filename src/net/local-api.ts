// The local control socket of a running role: JSON over HTTP on a Unix socket, and the client for it.
import { chmod, lstat, unlink } from "node:fs/promises";
import { HiggsError } from "../base/errors.ts";
import type { Service } from "../base/service.ts";
import { giveToGroup, higgsGroupId } from "./run-dir.ts";

/** Answers with a value that becomes JSON, a promise of one, or lines as they come. */
export type LocalHandler = (body: unknown, signal: AbortSignal) => unknown;

/** Verb to handler; a verb is one path segment. What a handler throws becomes `{ error: { code, message, remedy } }`. */
export type LocalVerbs = Readonly<Record<string, LocalHandler>>;

export class LocalApiError extends HiggsError {
  override readonly name = "LocalApiError";
}

export interface LocalErrorBody {
  readonly error: { readonly code: string; readonly message: string; readonly remedy?: string };
}

/** 0660 for `higgs.sock` (reading and everyday verbs; for the group, if there is one), 0600 for `admin.sock` (what mints invites or weakens safety). */
export async function serveLocal(
  verbs: LocalVerbs,
  options: { readonly path: string; readonly mode: 0o600 | 0o660; readonly groupId: number | null },
): Promise<Service> {
  // The role's lock is held by the caller, so a socket that is there belongs to a process that is gone.
  await removeSocket(options.path);
  const controller = new AbortController();
  const before = process.umask(0o177);
  let server: ReturnType<typeof Bun.serve>;
  try {
    server = Bun.serve({
      unix: options.path,
      maxRequestBodySize: 65_536,
      async fetch(request) {
        // Only the CLI talks here; a browser that was led to a socket by some proxy shows itself by these.
        if (request.headers.has("origin") || request.method !== "POST") return new Response(null, { status: 403 });
        const verb = new URL(request.url).pathname.slice(1);
        const handler = Object.hasOwn(verbs, verb) ? verbs[verb] : undefined;
        if (handler === undefined)
          return failure({ code: "unknown-verb", message: `Cannot do "${verb}": no such verb.` });
        const text = await request.text();
        try {
          const signal = AbortSignal.any([request.signal, controller.signal]);
          const result = handler(text === "" ? {} : JSON.parse(text), signal);
          if (isStream(result)) return new Response(lineStream(result), { headers: { "content-type": "text/plain" } });
          return Response.json((await result) ?? {});
        } catch (thrown) {
          if (thrown instanceof HiggsError) {
            return failure({
              code: thrown.code,
              message: thrown.message,
              ...(thrown.remedy === undefined ? {} : { remedy: thrown.remedy }),
            });
          }
          return failure({ code: "failed", message: thrown instanceof Error ? thrown.message : String(thrown) });
        }
      },
    });
  } finally {
    process.umask(before);
  }
  if (options.groupId !== null) await giveToGroup(options.path, options.groupId); // before the group may do anything
  await chmod(options.path, options.mode);
  let disposed: Promise<void> | undefined;
  return {
    [Symbol.asyncDispose]() {
      disposed ??= (async () => {
        controller.abort();
        await server.stop(true);
        await removeSocket(options.path);
      })();
      return disposed;
    },
  };
}

function failure(error: LocalErrorBody["error"]): Response {
  return Response.json({ error } satisfies LocalErrorBody, { status: 422 });
}

function isStream(value: unknown): value is AsyncIterable<string> {
  return typeof value === "object" && value !== null && Symbol.asyncIterator in value;
}

function lineStream(lines: AsyncIterable<string>): ReadableStream<Uint8Array> {
  const iterator = lines[Symbol.asyncIterator]();
  const encoder = new TextEncoder();
  return new ReadableStream({
    async pull(sink) {
      const next = await iterator.next();
      if (next.done === true) sink.close();
      else sink.enqueue(encoder.encode(`${next.value}\n`));
    },
    async cancel() {
      await iterator.return?.();
    },
  });
}

/** Of a process that is gone; anything else of that name stays. */
export async function removeSocket(path: string): Promise<void> {
  try {
    if ((await lstat(path)).isSocket()) await unlink(path);
  } catch (thrown) {
    if ((thrown as { code?: string }).code !== "ENOENT") throw thrown;
  }
}

/** Throws LocalApiError `not-running`, `not-permitted`, or the code that the running process answered. */
export async function callLocal(
  path: string,
  verb: string,
  options: { readonly body?: unknown; readonly signal?: AbortSignal } = {},
): Promise<unknown> {
  return await (await request(path, verb, options)).json();
}

/** Yields the lines that a streaming verb sends. */
export async function* streamLocal(
  path: string,
  verb: string,
  options: { readonly body?: unknown; readonly signal?: AbortSignal } = {},
): AsyncGenerator<string> {
  const response = await request(path, verb, options);
  if (response.body === null) return;
  let rest = "";
  const decoder = new TextDecoder();
  const body: ReadableStream<Uint8Array> = response.body;
  for await (const chunk of body) {
    const parts = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = parts.pop() ?? "";
    yield* parts;
  }
}

async function request(
  path: string,
  verb: string,
  options: { readonly body?: unknown; readonly signal?: AbortSignal },
): Promise<Response> {
  let response: Response;
  try {
    await lstat(path);
    response = await fetch(`http://localhost/${verb}`, {
      unix: path,
      method: "POST",
      body: JSON.stringify(options.body ?? {}),
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    });
  } catch (thrown) {
    options.signal?.throwIfAborted();
    throw noAnswer(path, thrown);
  }
  if (response.ok) return response;
  const body = (await response.json().catch(() => null)) as LocalErrorBody | null;
  const error = body?.error ?? { code: "failed", message: `Cannot do "${verb}": status ${response.status}.` };
  throw new LocalApiError(error.message, {
    code: error.code,
    ...(error.remedy === undefined ? {} : { remedy: error.remedy }),
  });
}

function noAnswer(path: string, cause: unknown): LocalApiError {
  const code = (cause as { code?: string }).code;
  if (code === "EACCES" || code === "EPERM") {
    return new LocalApiError(`Cannot use the control socket ${path}: this user may not.`, {
      code: "not-permitted",
      remedy:
        higgsGroupId() === null || path.endsWith("/admin.sock")
          ? "Run the command with sudo."
          : "Run the command with sudo, or join the group once: sudo usermod -aG higgs $USER, then log in again.",
      cause,
    });
  }
  return new LocalApiError(`Cannot reach a running higgs at ${path}: nothing answers there.`, {
    code: "not-running",
    cause,
  });
}
