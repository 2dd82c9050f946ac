// A folder on Windows that only the system and administrators may look into, whoever made it.
import { type Exec, output } from "./exec.ts";

/** SYSTEM, as which services run, and Administrators (well-known SIDs): their names differ with the language. */
const MEMBERS = ["S-1-5-18", "S-1-5-32-544"] as const;

/**
 * learn.microsoft.com, windows-commands, icacls: /setowner, as an owner may always change the rights; /inheritance:r takes away what came
 * from above; /grant:r replaces; (OI)(CI)F is everything, for files and folders within too. A "*" is before a SID.
 */
export async function protectFolder(exec: Exec, path: string, signal?: AbortSignal): Promise<void> {
  const options = signal === undefined ? {} : { signal };
  await output(exec, ["icacls", path, "/setowner", `*${MEMBERS[1]}`], options);
  await output(
    exec,
    ["icacls", path, "/inheritance:r", "/grant:r", ...MEMBERS.map((sid) => `*${sid}:(OI)(CI)F`)],
    options,
  );
}
