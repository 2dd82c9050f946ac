// Watching what systemd-resolved asks: one call for each burst of changes to any link's servers, whoever made them.
import { type FSWatcher, watch } from "node:fs";
import { Debounce } from "../../base/async.ts";
import type { Service } from "../../base/service.ts";

/** It writes its own resolv.conf files here anew whenever a link's servers change, and when it starts. Everybody may read them. */
const RUN_DIR = "/run/systemd/resolve";
/** A change writes two files and comes as three calls of resolvectl. */
const BURST_MS = 50;

/** Watches nothing where resolved has not run since the boot. */
export function watchResolved(onChange: () => void, runDir: string = RUN_DIR): Service {
  const burst = new Debounce(onChange, BURST_MS);
  let watcher: FSWatcher | null = null;
  try {
    watcher = watch(runDir, () => burst.poke());
    watcher.on("error", () => undefined); // the folder is gone, and with it what was to be seen
  } catch {
    // no such folder: resolved is not this machine's, and whoever compares wanted and real state finds it when it comes
  }
  return {
    [Symbol.asyncDispose]() {
      watcher?.close();
      burst.cancel();
      return Promise.resolve();
    },
  };
}
