// Reads a request's body whole, before anything else looks at it: bounded in size, and in time however slowly the bytes come.
import { concatBytes } from "../base/bytes.ts";
import { ApiError } from "./api/problem.ts";
import { BODY_DEADLINE_MS, MOST_BODY_BYTES } from "./options.ts";

/** Bun's own idle timer starts anew with each byte; this one does not. Throws ApiError `body-too-large` or `body-late`. */
export async function readBody(
  request: Request,
  deadlineMs: number = BODY_DEADLINE_MS,
): Promise<Uint8Array<ArrayBuffer> | null> {
  if (request.body === null) return null;
  if (Number(request.headers.get("content-length") ?? 0) > MOST_BODY_BYTES) throw tooLarge();
  const body: ReadableStream<Uint8Array> = request.body;
  const reader = body.getReader();
  const parts: Uint8Array[] = [];
  let length = 0;
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    late.reject(new ApiError("Cannot wait any longer for the rest of the request.", { code: "body-late" }));
  }, deadlineMs);
  try {
    for (;;) {
      const { done, value } = await Promise.race([reader.read(), late.promise]);
      if (done) return new Uint8Array(concatBytes(...parts));
      length += value.length;
      if (length > MOST_BODY_BYTES) throw tooLarge();
      parts.push(value);
    }
  } catch (thrown) {
    // What is still to come is not read; the connection is closed after the answer.
    void reader.cancel().catch(() => undefined);
    throw thrown;
  } finally {
    clearTimeout(timer);
  }
}

function tooLarge(): ApiError {
  return new ApiError(`Cannot take a body of more than ${MOST_BODY_BYTES} bytes.`, { code: "body-too-large" });
}
