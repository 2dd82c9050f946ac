// A machine's state folder: which file holds what, and reading and writing them whole.
import { unlink } from "node:fs/promises";
import { join } from "node:path";
import type { z } from "zod";
import { utf8, utf8Text } from "../base/bytes.ts";
import { HiggsError } from "../base/errors.ts";
import { ensurePrivateDir, readSecretFile, writeSecretFile } from "../net/secret-file.ts";

export class StateError extends HiggsError {
  override readonly name = "StateError";
}

/** Everything that a machine keeps; `journal.json` beside these is the operating system's (net/). */
export const STATE_FILES = [
  "identity.key",
  "wireguard.key",
  "enrolment.json",
  "record.json",
  "trust.json",
  "settings.json",
  "proxy.json",
] as const;
export type StateFile = (typeof STATE_FILES)[number];

export interface StateDir {
  readonly path: string;
  /** Null when the file is not there. Throws `file-too-open` when others may read it, `state-damaged` when it does not parse. */
  readJson<T>(file: StateFile, schema: z.ZodType<T>): Promise<T | null>;
  /** On disk, with its folder, when it resolves. */
  writeJson(file: StateFile, value: unknown): Promise<void>;
  readBytes(file: StateFile): Promise<Uint8Array | null>;
  writeBytes(file: StateFile, bytes: Uint8Array): Promise<void>;
  /** Forgets the machine: removes every file of ours but the journal. */
  clear(): Promise<void>;
}

export async function openStateDir(path: string): Promise<StateDir> {
  await ensurePrivateDir(path);
  const at = (file: StateFile): string => join(path, file);
  return {
    path,
    async readJson(file, schema) {
      const bytes = await readSecretFile(at(file));
      if (bytes === null) return null;
      try {
        return schema.parse(JSON.parse(utf8Text(bytes)));
      } catch (cause) {
        throw new StateError(`Cannot read ${at(file)}: it is damaged, or of a newer version.`, {
          code: "state-damaged",
          remedy: "Put it back from a backup, update higgs, or leave and join again.",
          cause,
        });
      }
    },
    writeJson: (file, value) => writeSecretFile(at(file), utf8(`${JSON.stringify(value, null, 2)}\n`)),
    readBytes: (file) => readSecretFile(at(file)),
    writeBytes: (file, bytes) => writeSecretFile(at(file), bytes),
    async clear() {
      for (const file of STATE_FILES) {
        await unlink(at(file)).catch((thrown: unknown) => {
          if ((thrown as { code?: string }).code !== "ENOENT") throw thrown;
        });
      }
    },
  };
}
