// Many machines in one process, each with keys, control stream and relay connection as in src/peer; says when each is connected.
//
// `bun herd.js COUNT DIR INVITE` prints "enrolled", and then one line of JSON for each welcome: { n, times, atMs }.
import { join as joinPath } from "node:path";
import { createLogger } from "../../src/base/log.ts";
import { join } from "../../src/peer/enrol.ts";
import { EnrolmentStore, readEnrolment } from "../../src/peer/enrolment.ts";
import { machineKeys } from "../../src/peer/identity.ts";
import { joinNetwork } from "../../src/peer/membership.ts";
import { openStateDir, type StateDir } from "../../src/peer/state-dir.ts";
import { TrustStore } from "../../src/peer/trust-store.ts";
import { parseInvite } from "../../src/proto/invite.ts";

const VERSION = "0.0.0-herd";
const [countText, folder = "", inviteText = ""] = process.argv.slice(2);
const invite = parseInvite(inviteText);
const NEVER = new AbortController().signal;
const log = createLogger({ level: "error", write: (line) => console.log(line) });

async function enrol(n: number): Promise<StateDir> {
  const dir = await openStateDir(joinPath(folder, String(n)));
  const name = `herd-${n}`;
  const prefixes = () => Promise.resolve([]);
  await join(dir, invite, { role: "node", name, hostname: name, version: VERSION, platform: "test", prefixes }, NEVER);
  return dir;
}

/** Runs until the process ends. */
async function run(n: number, dir: StateDir): Promise<void> {
  const store = new EnrolmentStore(dir, await readEnrolment(dir, "node"));
  const parts = { dir, store, keys: await machineKeys(dir), trust: await TrustStore.open(dir), log };
  let times = 0;
  joinNetwork(parts, {
    offer: { routes: [], endpoint: null },
    version: VERSION,
    onChange: () => undefined,
    onWelcome: () => console.log(JSON.stringify({ n, times: ++times, atMs: performance.now() })),
  });
}

const dirs: StateDir[] = [];
for (let n = 0; n < Number(countText); n++) dirs.push(await enrol(n));
console.log("enrolled");
await Promise.all(dirs.map((dir, n) => run(n, dir)));
