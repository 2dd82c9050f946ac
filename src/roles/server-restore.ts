// `higgs server restore`: a copy of the database takes the place of the one that is there, while no server runs.
import { resolve } from "node:path";
import { silentLogger } from "../base/log.ts";
import { acquireInstanceLock, AlreadyRunning } from "../net/single-instance.ts";
import { databasePath } from "../server/db/open.ts";
import { databaseFile, knownIdentity } from "../server/first-start.ts";
import { type Restored, restoreDatabase, RestoreRefused } from "../server/restore.ts";
import type { Config } from "./config.ts";

/** Throws RestoreRefused, and what restoreDatabase throws. */
export async function restoreServer(config: Config<"server">, copyPath: string): Promise<Restored> {
  const target = config.db === null ? databaseFile(config.state) : databasePath(config.db);
  if (target === null) {
    throw new RestoreRefused(
      `Cannot restore into "${config.db?.replace(/\?.*$/, "")}": it is no file of this machine.`,
      {
        code: "restore-refused",
        remedy: "Restore it by the means of whoever runs that database.",
      },
    );
  }
  await using _lock = await alone(config.run);
  const identity = await knownIdentity(config.state);
  return await restoreDatabase(resolve(copyPath), resolve(target), { identity, nowMs: Date.now(), log: silentLogger });
}

async function alone(runDir: string): Promise<AsyncDisposable> {
  try {
    return await acquireInstanceLock({ runDir, role: "server" });
  } catch (thrown) {
    if (!(thrown instanceof AlreadyRunning)) throw thrown;
    throw new RestoreRefused("Cannot restore while the server runs: it has its database open.", {
      code: "already-running",
      remedy: "End it first: sudo systemctl stop higgs-server, or Ctrl-C where it runs in a terminal.",
      cause: thrown,
    });
  }
}
