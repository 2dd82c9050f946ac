// Enrolling this machine in a network with an invite, for `join` and for the roles' `--join`.
import { hostname } from "node:os";
import type { Invite } from "../proto/invite.ts";
import type { Enrolment } from "../peer/enrolment.ts";
import { join } from "../peer/enrol.ts";
import { openStateDir } from "../peer/state-dir.ts";
import { PLATFORM, VERSION } from "./version.ts";

/** Safe to repeat; see peer/enrol.ts for what it throws. */
export async function joinWithInvite(
  role: "node" | "client",
  options: { readonly invite: Invite; readonly stateDir: string; readonly name: string | null },
  signal: AbortSignal,
): Promise<Enrolment> {
  const dir = await openStateDir(options.stateDir);
  return await join(
    dir,
    options.invite,
    { role, name: options.name, hostname: hostname(), version: VERSION, platform: PLATFORM },
    signal,
  );
}
