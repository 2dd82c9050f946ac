// /etc/resolv.conf for a process that may not write there: asks a helper that the service manager starts for each request.
import { existsSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { z } from "zod";
import { SerialQueue, withDeadline } from "../../base/async.ts";
import { equalBytes, utf8 } from "../../base/bytes.ts";
import { parseIp } from "../../base/ip.ts";
import { DnsRefused } from "./errors.ts";
import { asksOnly, see } from "./file-dns.ts";
import { resolvConfText } from "./resolv-conf-text.ts";
import { writerOf } from "./resolv-conf-writer.ts";
import { readRecord, type RecordDeps } from "./resolvconf-record.ts";
import type { DnsPolicy, SystemDns } from "./system-dns.ts";

/*
 * A connection carries one request and its answer, each one line of JSON:
 *   {"servers":["10.77.0.1"],"searchDomains":[]}  or  {"reset":true}
 *   {"changed":true}                              or  {"error":{"code":"…","message":"…","remedy":"…"}}
 */
export const HELPER_SOCKET_PATH = "/run/higgs/resolv-conf.sock";
/** Root's alone: the copy of the file as it was, and a journal of it. */
export const HELPER_STATE_DIR = "/var/lib/higgs/resolv-conf";

const address = z.string().transform((text, context) => {
  const parsed = parseIp(text);
  if (parsed !== null) return parsed;
  context.addIssue({ code: "custom", message: "is no address" });
  return z.NEVER;
});
export const helperRequest = z.union([
  z.strictObject({
    servers: z.array(address).min(1).max(8),
    searchDomains: z.array(z.string().max(253)).max(32),
  }),
  z.strictObject({ reset: z.literal(true) }),
]);
export type HelperRequest = z.infer<typeof helperRequest>;

export const helperAnswer = z.union([
  z.object({ changed: z.boolean() }),
  z.object({ error: z.object({ code: z.string(), message: z.string(), remedy: z.string().optional() }) }),
]);
export type HelperAnswer = z.infer<typeof helperAnswer>;

export const HELPER_LIMIT_BYTES = 16_384;
/** A new process on a busy machine. */
const ANSWER_MS = 10_000;

/** True for a process that has to ask: it is not root, and somebody listens. */
export function needsHelper(socketPath: string = HELPER_SOCKET_PATH): boolean {
  return process.getuid?.() !== 0 && existsSync(socketPath);
}

/** True where the file, which is ours, is in the helper's journal. Its folder is root's: the service knows that it asked. */
export function isJournaledByHelper(): boolean {
  return needsHelper() || existsSync(join(HELPER_STATE_DIR, "journal.json"));
}

/** As fileDns, by the helper, which is asked only where the file is not as wanted: it is a process of its own each time. */
export function helperDns(
  deps: Pick<RecordDeps, "identifiers" | "resolvconfDir">,
  path: string,
  socketPath: string = HELPER_SOCKET_PATH,
): SystemDns {
  const queue = new SerialQueue();
  return {
    apply: (policy: DnsPolicy, signal) =>
      queue.run(async () => {
        const seen = await see(path);
        if (seen.bytes !== null && equalBytes(seen.bytes, utf8(resolvConfText(policy)))) return;
        if (writerOf(seen) === "resolvconf" && asksOnly(seen.bytes, policy)) return;
        const { servers, searchDomains = [] } = policy;
        await askHelper({ servers: [...servers], searchDomains: [...searchDomains] }, signal, socketPath);
      }),
    reset: (signal) =>
      queue.run(async () => {
        const writer = writerOf(await see(path));
        const mayBeOurs = ["higgs", "resolvconf", "hidden"].includes(writer) || (await readRecord(deps)) !== null;
        if (mayBeOurs) await askHelper({ reset: true }, signal, socketPath);
      }),
  };
}

/** True when the file was changed. Throws DnsRefused with what the helper said. */
export async function askHelper(
  request: HelperRequest,
  signal: AbortSignal,
  socketPath: string = HELPER_SOCKET_PATH,
): Promise<boolean> {
  const ask = (limited: AbortSignal): Promise<string> => exchange(socketPath, JSON.stringify(request), limited);
  const said = await withDeadline("set resolv.conf", ask, { timeoutMs: ANSWER_MS, signal });
  const answer = parsed(said);
  if (answer !== null && "changed" in answer) return answer.changed;
  const error = answer?.error ?? { code: "resolv-conf-refused", message: "Cannot set resolv.conf: the helper failed." };
  throw new DnsRefused(error.message, {
    code: error.code,
    remedy: error.remedy ?? "journalctl -u 'higgs-resolv-conf@*'",
  });
}

function parsed(line: string): HelperAnswer | null {
  try {
    return helperAnswer.parse(JSON.parse(line));
  } catch {
    return null; // it ended without an answer
  }
}

function exchange(socketPath: string, line: string, signal: AbortSignal): Promise<string> {
  return new Promise((resolve, reject) => {
    let said = "";
    const socket = connect(socketPath, () => socket.end(`${line}\n`));
    const abort = (): void => void socket.destroy(signal.reason as Error);
    signal.addEventListener("abort", abort, { once: true });
    socket.setEncoding("utf8");
    socket.on("data", (text: string) => {
      said += text;
      if (said.length > HELPER_LIMIT_BYTES) socket.destroy();
    });
    socket.once("error", reject);
    socket.once("close", () => {
      signal.removeEventListener("abort", abort);
      resolve(said);
    });
  });
}
