// What the helper for /etc/resolv.conf does with one request: sets the file, or puts it back, and nothing else.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { errorText, HiggsError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import { type Exec, systemExec } from "../exec.ts";
import { IDENTIFIERS } from "../identifiers.ts";
import { openJournal } from "../journal-file.ts";
import { ensurePrivateDir } from "../secret-file.ts";
import { fileDns, type FileDnsDeps, type Restored, restoreNames } from "./file-dns.ts";
import { readBackup } from "./resolv-conf-backup.ts";
import { HELPER_STATE_DIR, type HelperAnswer, helperRequest } from "./resolv-conf-helper.ts";
import { makeResolvedRead } from "./resolved.ts";

export interface HelperDeps {
  readonly log: Logger;
  readonly exec?: Exec;
  /** Default HELPER_STATE_DIR. */
  readonly stateDir?: string;
  /** Default /etc/resolv.conf. */
  readonly path?: string;
  /** Default /run/resolvconf. */
  readonly resolvconfDir?: string;
}

/** `line` comes from a lesser user: addresses and names are all that is taken from it. Never throws. */
export async function answerHelperRequest(line: string, deps: HelperDeps, signal: AbortSignal): Promise<HelperAnswer> {
  try {
    const request = helperRequest.parse(JSON.parse(line));
    const stateDir = deps.stateDir ?? HELPER_STATE_DIR;
    await ensurePrivateDir(stateDir);
    const exec = deps.exec ?? systemExec();
    const makeRead = (limited: AbortSignal): Promise<void> => makeResolvedRead(exec, limited);
    const at = await depsOf({ ...deps, exec, stateDir, makeRead });
    if ("reset" in request) {
      const { file, record } = await restoreNames(at, signal);
      return { changed: file || record };
    }
    await fileDns(at).apply({ interface: "", ...request }, signal);
    return { changed: true };
  } catch (thrown) {
    if (thrown instanceof HiggsError) {
      const { code, message, remedy } = thrown;
      return { error: { code, message, ...(remedy === undefined ? {} : { remedy }) } };
    }
    deps.log.error({ error: errorText(thrown) }, "a request failed");
    return { error: { code: "failed", message: "Cannot set resolv.conf: the request is none, or the disk fails." } };
  }
}

/** For root, who cleans up without the helper. What of the helper's was there and is put back. */
export async function restoreForHelper(
  deps: Pick<FileDnsDeps, "log" | "path" | "exec"> & Required<Pick<FileDnsDeps, "makeRead">>,
  signal: AbortSignal,
  stateDir: string = HELPER_STATE_DIR,
): Promise<Restored> {
  const isKnown = existsSync(join(stateDir, "journal.json")) || (await readBackup(stateDir)) !== null;
  if (!isKnown) return { file: false, record: false };
  return await restoreNames(await depsOf({ ...deps, stateDir }), signal);
}

async function depsOf(deps: Omit<FileDnsDeps, "journal" | "identifiers">): Promise<FileDnsDeps> {
  const journal = await openJournal({ path: join(deps.stateDir, "journal.json"), role: "client", log: deps.log });
  return { ...deps, journal, identifiers: IDENTIFIERS.client };
}
