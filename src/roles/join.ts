// Enrolling this machine in a network with an invite, for `join` and for the roles' `--join`.
import { hostname } from "node:os";
import { HiggsError } from "../base/errors.ts";
import { systemExec } from "../net/exec.ts";
import { type ConnectedPrefix, readPrefixes } from "../net/links.ts";
import type { Invite } from "../proto/invite.ts";
import type { Enrolment } from "../peer/enrolment.ts";
import { join } from "../peer/enrol.ts";
import { openStateDir } from "../peer/state-dir.ts";
import type { ProxySetting } from "./proxy-setting.ts";
import { openProxy } from "./proxy.ts";
import { PLATFORM, VERSION } from "./version.ts";

/** Safe to repeat; see peer/enrol.ts for what it throws. */
export async function joinWithInvite(
  role: "node" | "client",
  options: {
    readonly invite: Invite;
    readonly stateDir: string;
    readonly name: string | null;
    readonly proxy: ProxySetting | null;
  },
  signal: AbortSignal,
): Promise<Enrolment> {
  const dir = await openStateDir(options.stateDir);
  return await join(
    dir,
    options.invite,
    {
      role,
      name: options.name,
      hostname: hostname(),
      version: VERSION,
      platform: PLATFORM,
      proxy: await openProxy(dir, options.proxy),
      prefixes: ownPrefixes,
    },
    signal,
  );
}

/** A machine may join before it has its tools; the role says which are missing when it starts. */
async function ownPrefixes(signal: AbortSignal): Promise<readonly ConnectedPrefix[]> {
  try {
    return await readPrefixes(systemExec(), signal);
  } catch (thrown) {
    if (thrown instanceof HiggsError && thrown.code === "tool-missing") return [];
    throw thrown;
  }
}
