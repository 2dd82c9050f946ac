// The helper that sets /etc/resolv.conf for a client which may not: reads one request, bounded in size and time, and answers it.
import { createLogger } from "../base/log.ts";
import { HELPER_LIMIT_BYTES } from "../net/dns/resolv-conf-helper.ts";
import { answerHelperRequest } from "../net/dns/resolv-conf-request.ts";

/** Resolves with the answer's line. */
export async function serveHelperRequest(
  input: AsyncIterable<Uint8Array | string>,
  signal: AbortSignal,
): Promise<string> {
  const log = createLogger({ level: "info", write: (line) => void process.stderr.write(`${line}\n`) });
  let line = "";
  for await (const chunk of input) {
    line += typeof chunk === "string" ? chunk : new TextDecoder().decode(chunk);
    if (line.includes("\n") || line.length > HELPER_LIMIT_BYTES) break;
    signal.throwIfAborted();
  }
  return `${JSON.stringify(await answerHelperRequest(line.split("\n")[0] ?? "", { log }, signal))}\n`;
}
