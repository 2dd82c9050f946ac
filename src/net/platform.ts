// Which operating system this is, and whether higgs may change it: what was never tried there is asked for deliberately.
import { HiggsError } from "../base/errors.ts";

export type Platform = "linux" | "macos" | "windows";

const NAMES: Readonly<Record<string, Platform>> = { linux: "linux", darwin: "macos", win32: "windows" };
const SPOKEN: Readonly<Record<Platform, string>> = { linux: "Linux", macos: "macOS", windows: "Windows" };

/** Null for a system that higgs knows nothing of. */
export function platformOf(name: string = process.platform): Platform | null {
  return NAMES[name] ?? null;
}

/** Where a role's run folder and state folder are unless a person says otherwise; macOS has no /run, and its root takes no folders. */
export function usualDirs(platform: Platform | null = platformOf()): { readonly run: string; readonly state: string } {
  // Known Folders, FOLDERID_ProgramData: for the machine, and not for one account.
  if (platform === "windows") return { run: "C:\\ProgramData\\higgs\\run", state: "C:\\ProgramData\\higgs" };
  return { run: platform === "macos" ? "/var/run/higgs" : "/run/higgs", state: "/var/lib/higgs" };
}

/** As a person writes it. */
export function platformName(platform: Platform | null = platformOf()): string {
  return platform === null ? process.platform : SPOKEN[platform];
}

/** What a person is told of a platform that higgs was written for and never tried on; null for Linux. */
export function untestedText(platform: Platform | null): string | null {
  if (platform === null || platform === "linux") return null;
  return `higgs was written for ${SPOKEN[platform]} from its manuals, and has never run on a real one: nothing that it says of safety was ever seen there.`;
}

/** What was written for this system from its manuals, and never ran on it. */
export class PlatformUntested extends HiggsError {
  override readonly name = "PlatformUntested";
}

/** By this a person says that they know; on Linux it means nothing. */
export const UNTESTED_FLAG = "--untested-platform";

/** Throws PlatformUntested unless a person has asked for it. `what` begins with "Cannot": nothing was touched then. */
export function requireAskedFor(platform: Platform | null, asked: boolean, what: string): void {
  if (platform === null || platform === "linux" || asked) return;
  throw new PlatformUntested(
    `Cannot ${what} on ${SPOKEN[platform]}: it was written from the manuals, and has never run on a real one.`,
    {
      code: "platform-untested",
      remedy: `To try it all the same, on a machine that you can do without: ${UNTESTED_FLAG} (HIGGS_UNTESTED_PLATFORM=1)`,
      detail: { platform },
    },
  );
}
