// What a person decided on the kill switch, kept in the client's state folder: read with distrust, and closed when in doubt.
import { lchown, stat } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { utf8, utf8Text } from "../base/bytes.ts";
import { errorText } from "../base/errors.ts";
import { readSecretFile, writeSecretFile } from "./secret-file.ts";

export interface Lockdown {
  /** Nothing leaves this machine but by the tunnel, whether or not there is one. */
  readonly lockdown: boolean;
  /** The LAN stays reachable. */
  readonly lan: boolean;
  /** Frames that bypass the IP layer are stopped too. */
  readonly paranoid: boolean;
}

/** What is not said stays as it is. */
export type LockdownChange = { readonly [K in keyof Lockdown]?: boolean | undefined };

export interface KeptLockdown extends Lockdown {
  /** Why the file could not be understood, which counts as a lockdown that is on; null when it could. */
  readonly damage: string | null;
}

export const OPEN: Lockdown = { lockdown: false, lan: false, paranoid: false };

const schema = z.object({
  version: z.literal(1),
  lockdown: z.boolean(),
  lan: z.boolean(),
  paranoid: z.boolean(),
});

export function lockdownPath(stateDir: string): string {
  return join(stateDir, "lockdown.json");
}

/**
 * A machine without the file never had a lockdown, or has it no more. One whose file cannot be read or understood is taken for
 * locked down, without its LAN: a disk that forgets must not open what a person had closed.
 */
export async function readLockdown(stateDir: string): Promise<KeptLockdown> {
  try {
    const bytes = await readSecretFile(lockdownPath(stateDir));
    if (bytes === null) return { ...OPEN, damage: null };
    const { lockdown, lan, paranoid } = schema.parse(JSON.parse(utf8Text(bytes)));
    return { lockdown, lan, paranoid, damage: null };
  } catch (thrown) {
    // No such folder: nobody has a client here.
    if (thrown instanceof Error && "code" in thrown && thrown.code === "ENOTDIR") return { ...OPEN, damage: null };
    const why = thrown instanceof z.ZodError ? "it is not as higgs writes it" : errorText(thrown);
    return { lockdown: true, lan: false, paranoid: false, damage: why };
  }
}

/** On disk, with its folder, when it resolves. */
export async function writeLockdown(stateDir: string, lockdown: Lockdown): Promise<void> {
  const path = lockdownPath(stateDir);
  const { lockdown: on, lan, paranoid } = lockdown;
  await writeSecretFile(path, utf8(`${JSON.stringify({ version: 1, lockdown: on, lan, paranoid })}\n`));
  if (process.getuid?.() !== 0) return;
  // Root may decide for a service that runs as a lesser user, who must be able to read it.
  const { uid, gid } = await stat(stateDir);
  if (uid !== 0) await lchown(path, uid, gid);
}
