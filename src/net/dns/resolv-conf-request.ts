// What the helper for /etc/resolv.conf does with one request: sets the file, or puts it back, and nothing else.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { errorText, HiggsError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import { type Exec, systemExec } from "../exec.ts";
import { openJournal } from "../journal-file.ts";
import { ensurePrivateDir } from "../secret-file.ts";
import { resolvConfDns, type ResolvConfDeps, restoreResolvConf } from "./resolv-conf.ts";
import { HELPER_STATE_DIR, type HelperAnswer, helperRequest } from "./resolv-conf-helper.ts";
import { makeResolvedRead } from "./resolved.ts";

export interface HelperDeps {
  readonly log: Logger;
  readonly exec?: Exec;
  /** Default HELPER_STATE_DIR. */
  readonly stateDir?: string;
  /** Default /etc/resolv.conf. */
  readonly path?: string;
}

/** `line` comes from a lesser user: addresses and names are all that is taken from it. Never throws. */
export async function answerHelperRequest(line: string, deps: HelperDeps, signal: AbortSignal): Promise<HelperAnswer> {
  try {
    const request = helperRequest.parse(JSON.parse(line));
    const stateDir = deps.stateDir ?? HELPER_STATE_DIR;
    await ensurePrivateDir(stateDir);
    const exec = deps.exec ?? systemExec();
    const at = await depsOf({ ...deps, stateDir, makeRead: (limited) => makeResolvedRead(exec, limited) });
    if ("reset" in request) return { changed: await restoreResolvConf(at, signal) };
    await resolvConfDns(at).apply({ interface: "", ...request }, signal);
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

/** For root, who cleans up without the helper. True when the helper's file was there and is put back. */
export async function restoreForHelper(
  deps: Pick<ResolvConfDeps, "log" | "path"> & Required<Pick<ResolvConfDeps, "makeRead">>,
  signal: AbortSignal,
  stateDir: string = HELPER_STATE_DIR,
): Promise<boolean> {
  if (!existsSync(join(stateDir, "journal.json"))) return false;
  return await restoreResolvConf(await depsOf({ ...deps, stateDir }), signal);
}

async function depsOf(deps: Omit<ResolvConfDeps, "journal">): Promise<ResolvConfDeps> {
  const journal = await openJournal({ path: join(deps.stateDir, "journal.json"), role: "client", log: deps.log });
  return { ...deps, journal };
}
