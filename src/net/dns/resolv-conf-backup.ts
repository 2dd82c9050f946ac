// The state folder's copy of /etc/resolv.conf as it was, complete enough to put it back without any other memory.
import { unlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { syncDir } from "../secret-file.ts";
import { codeOf, type FileState, putState, readState, removeTemporary } from "./resolv-conf-file.ts";

const NAME = "resolv.conf.before";
/** A link to this stands for "there was none". */
const ABSENT = "higgs:absent";

function backupPath(stateDir: string): string {
  return join(stateDir, NAME);
}

/** A file is kept as a file with its mode and owner, a link as a link with its target. It lasts when this resolves. */
export async function writeBackup(stateDir: string, state: FileState): Promise<void> {
  await putState(backupPath(stateDir), state.kind === "absent" ? { kind: "symlink", target: ABSENT } : state);
}

/** Null when there is none. */
export async function readBackup(stateDir: string): Promise<FileState | null> {
  const state = await readState(backupPath(stateDir));
  if (state.kind === "absent") return null;
  return state.kind === "symlink" && state.target === ABSENT ? { kind: "absent" } : state;
}

export async function removeBackup(stateDir: string): Promise<void> {
  await removeTemporary(backupPath(stateDir));
  try {
    await unlink(backupPath(stateDir));
  } catch (thrown) {
    if (codeOf(thrown) === "ENOENT") return;
    throw thrown;
  }
  await syncDir(dirname(backupPath(stateDir)));
}
