// What a machine remembers of its own choices: the WireGuard port that it drew, the exit and the settings that a person chose.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { fromBase64Url, toBase64Url } from "../base/bytes.ts";
import type { StateDir } from "./state-dir.ts";

const chosenSchema = z.record(z.string().max(32), z.string().max(4096));
const settingsSchema = z.object({
  version: z.literal(1),
  /** Drawn at random once, so that two machines behind one router do not want the same port; then kept. */
  port: z.int().min(1024).max(65_535).nullable(),
  /** `auto`, `none`, or a machine's name. */
  exit: z.string().max(63).nullable(),
  /** Settings that were chosen while the machine ran, by their flag's name, as they were typed. */
  chosen: chosenSchema.default({}),
  /** Base64url of 12 random bytes, by which routers know again who has their mapping (RFC 6887 section 11.1). */
  mappingNonce: z
    .string()
    .regex(/^[A-Za-z0-9_-]{16}$/)
    .nullable()
    .default(null),
});
export type MachineSettings = z.infer<typeof settingsSchema>;

const NOTHING: MachineSettings = { version: 1, port: null, exit: null, chosen: {}, mappingNonce: null };
const NONCE_BYTES = 12;

export async function readSettings(dir: StateDir): Promise<MachineSettings> {
  return (await dir.readJson("settings.json", settingsSchema)) ?? NOTHING;
}

/** For whoever resolves settings before the folder may be opened: nothing where it cannot be read; what is damaged is told later. */
export async function readChosen(stateDir: string): Promise<Readonly<Record<string, string>>> {
  try {
    return settingsSchema.parse(JSON.parse(await readFile(join(stateDir, "settings.json"), "utf8"))).chosen;
  } catch {
    return {};
  }
}

export async function changeSettings(dir: StateDir, change: Partial<MachineSettings>): Promise<MachineSettings> {
  const before = await readSettings(dir);
  const after = { ...before, ...change };
  if (JSON.stringify(after) !== JSON.stringify(before)) await dir.writeJson("settings.json", after);
  return after;
}

/** RFC 6335 section 6: the dynamic range, where no service has a number of its own. */
const FIRST_PORT = 49_152;
const LAST_PORT = 65_535;

/** The port that was asked for, or the one that was drawn at the first start. */
export async function listenPort(dir: StateDir, asked: number | null): Promise<number> {
  if (asked !== null) return asked;
  const { port } = await readSettings(dir);
  if (port !== null) return port;
  const drawn = FIRST_PORT + ((crypto.getRandomValues(new Uint32Array(1))[0] ?? 0) % (LAST_PORT - FIRST_PORT + 1));
  await changeSettings(dir, { port: drawn });
  return drawn;
}

/** Drawn at the first start, then kept: only whoever knows it may change what a router maps by PCP. */
export async function mappingNonce(dir: StateDir): Promise<Uint8Array> {
  const kept = fromBase64Url((await readSettings(dir)).mappingNonce ?? "");
  if (kept?.length === NONCE_BYTES) return kept;
  const drawn = crypto.getRandomValues(new Uint8Array(NONCE_BYTES));
  await changeSettings(dir, { mappingNonce: toBase64Url(drawn) });
  return drawn;
}
