// Leaving a network: the server is told, the operating system is put back, and the machine's state is forgotten.
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { errorText } from "../base/errors.ts";
import { silentLogger } from "../base/log.ts";
import { withDeadline } from "../base/async.ts";
import { machineSystem } from "../net/os.ts";
import { EnrolmentStore, readEnrolment } from "../peer/enrolment.ts";
import { machineKeys } from "../peer/identity.ts";
import { ServerLink } from "../peer/server-link.ts";
import { openStateDir } from "../peer/state-dir.ts";
import { z } from "zod";
import type { ProxySetting } from "./proxy-setting.ts";
import { openProxy } from "./proxy.ts";

const TELL_TIMEOUT_MS = 10_000;

/** The role's process must have ended. Resolves with sentences for the person; a server that cannot be told is one of them. */
export async function leaveNetwork(
  role: "node" | "client",
  dirs: { readonly state: string; readonly libexec: string; readonly proxy: ProxySetting | null },
  signal: AbortSignal,
): Promise<string[]> {
  const dir = await openStateDir(dirs.state);
  const store = new EnrolmentStore(dir, await readEnrolment(dir, role));
  const keys = await machineKeys(dir);
  const said: string[] = [];
  try {
    await withDeadline(
      "tell the server",
      async (limited) => {
        const proxy = await openProxy(dir, dirs.proxy);
        const session = await new ServerLink({ store, keys, proxy, log: silentLogger }).session(limited);
        const path = `/${role === "node" ? "nodes" : "clients"}/${store.value.id}`;
        await session.door.request("DELETE", path, { token: session.token, response: z.unknown(), signal: limited });
      },
      { timeoutMs: TELL_TIMEOUT_MS, signal },
    );
    said.push(`Left the network: "${store.value.name}" is no longer a machine of it.`);
  } catch (thrown) {
    signal.throwIfAborted();
    said.push(
      `The server could not be told (${errorText(thrown)}); on the server: higgs server revoke ${store.value.name}`,
    );
  }
  const os = await machineSystem(role, {
    stateDir: dirs.state,
    libexecDir: dirs.libexec,
    wireGuard: "auto",
    command: `higgs ${role} leave`,
    log: silentLogger,
  });
  said.push(...(await os.undoAll(signal)));
  await dir.clear();
  await rm(join(dirs.state, "connections"), { recursive: true, force: true }); // a node's record of its clients
  said.push("Forgot this machine's keys and what it knew of the network.");
  return said;
}
