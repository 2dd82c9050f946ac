// The wireguard-go inside this executable: unpacked to where only root may write, and compared before every start.
import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { lstat, mkdir, open, readFile, realpath, rename, unlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { CarriedWireguardGo } from "higgs:carried-wireguard-go";
import { HiggsError } from "../../base/errors.ts";
import { isTrustedOwner, rootOnlyProblem } from "../root-only.ts";
import { syncDir } from "../secret-file.ts";

/** Outside every role's state folder, which a lesser user may write to. */
export const LIBEXEC_DIR = "/var/lib/higgs/libexec";

export class CarriedRefused extends HiggsError {
  override readonly name = "CarriedRefused";
}

export function carriedName({ sha256 }: Pick<CarriedWireguardGo, "sha256">): string {
  return `wireguard-go-${sha256.slice(0, 12)}`;
}

/**
 * The path of the unpacked binary, its checksum just compared. Unpacks it where it is missing or changed and we are root.
 * Throws CarriedRefused when somebody else could have changed it, or when it is missing and we are not root.
 */
export async function unpackedCarried(carried: CarriedWireguardGo, libexecDir: string): Promise<string> {
  const path = join(libexecDir, carriedName(carried));
  const isRoot = process.getuid?.() === 0;
  if (isRoot) {
    await requireRootOnly(await nearestExisting(libexecDir));
    await mkdir(libexecDir, { recursive: true, mode: 0o755 });
  }
  const dir = await realpath(libexecDir).catch(() => null);
  if (dir === null) throw refused(path, "it has not been unpacked");
  await requireRootOnly(dir);
  if (await isAsBuilt(path, carried.sha256)) return path;
  if (!isRoot) throw refused(path, "it is missing, or is not the one that this executable carries");
  await unpack(carried, path);
  return path;
}

async function isAsBuilt(path: string, sha256: string): Promise<boolean> {
  const facts = await lstat(path).catch(() => null);
  if (facts === null || !facts.isFile() || !isTrustedOwner(facts.uid) || (facts.mode & 0o022) !== 0) return false;
  if ((facts.mode & 0o111) === 0) return false;
  return sha256Of(await readFile(path)) === sha256;
}

/** It appears whole; one that is running keeps its old file. */
async function unpack(carried: CarriedWireguardGo, path: string): Promise<void> {
  const binary = Bun.gunzipSync(await Bun.file(carried.gzPath).bytes());
  if (sha256Of(binary) !== carried.sha256) throw refused(path, "what this executable carries is damaged");
  const temporaryPath = `${path}.tmp`;
  await unlink(temporaryPath).catch(() => undefined); // of a process that was killed while it unpacked
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
  const file = await open(temporaryPath, flags, 0o700);
  try {
    await file.writeFile(binary);
    await file.chmod(0o755);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporaryPath, path);
  await syncDir(dirname(path));
}

function sha256Of(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

async function nearestExisting(path: string): Promise<string> {
  for (let at = path; ; at = dirname(at)) {
    const real = await realpath(at).catch(() => null);
    if (real !== null) return real;
    if (at === dirname(at)) return at;
  }
}

async function requireRootOnly(dir: string): Promise<void> {
  const problem = await rootOnlyProblem(dir);
  if (problem !== null) throw refused(problem.path, problem.why);
}

function refused(path: string, why: string): CarriedRefused {
  return new CarriedRefused(`Cannot use the carried wireguard-go at "${path}": ${why}.`, {
    code: "carried-refused",
    remedy: "Run it once as root, or install the service: sudo higgs node install, sudo higgs client install.",
    detail: { path },
  });
}
