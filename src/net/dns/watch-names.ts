// Watching whom this machine asks for names: one call for each burst of changes to resolv.conf, resolvconf's records or systemd-resolved's links.
import { type FSWatcher, watch } from "node:fs";
import { Debounce } from "../../base/async.ts";
import { RateLimit } from "../../base/rate-limit.ts";
import type { Service } from "../../base/service.ts";

export interface NamesPlace {
  readonly dir: string;
  /** One file of the folder; default: all of it. */
  readonly file?: string;
}

/** Everybody may read them. systemd-resolved writes its own resolv.conf files anew whenever a link's servers change, and when it starts. */
const PLACES: readonly NamesPlace[] = [
  { dir: "/run/systemd/resolve" },
  { dir: "/etc", file: "resolv.conf" },
  { dir: "/run/resolvconf" },
  { dir: "/run/resolvconf/interface" },
  { dir: "/run/resolvconf/interfaces" },
];
/** A change writes two files and comes as three calls of resolvectl; openresolv empties the file before it writes it. */
const BURST_MS = 50;
/** Another program may put its own back as fast as we do ours: then whoever compares every half minute goes on alone. */
const MOST = { burst: 40, perMs: 60_000 };

/** Does not watch a folder that is not there yet. */
export function watchNames(onChange: () => void, places: readonly NamesPlace[] = PLACES): Service {
  const limit = new RateLimit([MOST], 1);
  const burst = new Debounce(() => {
    if (limit.take("") === 0) onChange();
  }, BURST_MS);
  const watchers: FSWatcher[] = [];
  for (const { dir, file } of places) {
    try {
      const watcher = watch(dir, (_event, name) => {
        if (file === undefined || name === null || name === file) burst.poke();
      });
      watcher.on("error", () => undefined); // the folder is gone, and with it what was to be seen
      watchers.push(watcher);
    } catch {
      // no such folder: whose it is does not run here, and whoever compares wanted and real state finds it when it comes
    }
  }
  return {
    [Symbol.asyncDispose]() {
      for (const watcher of watchers) watcher.close();
      burst.cancel();
      return Promise.resolve();
    },
  };
}
