// Tries the kernel's relay with a packet of this machine's own, before anybody relies on it.
//
// A cable of two ends in this same namespace: what is sent into one arrives at the other as if from outside, is turned round by the
// relay's tables, and must leave again. Whatever other program drops forwarded packets drops this one too.
import { readFile, writeFile } from "node:fs/promises";
import { sleep } from "../base/async.ts";
import { errorText } from "../base/errors.ts";
import type { IpAddress } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import { type Exec, output } from "./exec.ts";
import { loadRuleset } from "./firewall/nft.ts";
import type { RelayLink, RelayTable } from "./relay-table.ts";

/** "untried": the cable could not be laid, which says nothing of the relay. */
export type RelayTrial = "passed" | "swallowed" | "untried";

const NEAR = "higgsr0";
const FAR = "higgsr1";
const TRIAL_TABLE = "higgs_relay_trial";
/** Of the range for measurements between devices (RFC 2544), which no real network has. */
const SENDER = "198.19.213.1" as IpAddress;
const FAR_ADDRESS = "198.19.213.2" as IpAddress;
const ENTRANCE = "198.19.213.9" as IpAddress;
const RECEIVER = "198.19.213.10" as IpAddress;
const SEND_AGAIN_MS = 20;
const TRIES = 10;
const CLEAN_MS = 5_000;

const CABLE = [
  `link add ${NEAR} address 02:00:5e:00:00:01 type veth peer name ${FAR} address 02:00:5e:00:00:02`,
  `addr add ${SENDER}/32 dev ${NEAR}`,
  // Where an interface has no address, the kernel believes no sender (rp_filter).
  `addr add ${FAR_ADDRESS}/32 dev ${FAR}`,
  `link set ${NEAR} up`,
  `link set ${FAR} up`,
  `neigh add ${ENTRANCE} dev ${NEAR} lladdr 02:00:5e:00:00:02`,
  `neigh add ${RECEIVER} dev ${FAR} lladdr 02:00:5e:00:00:01`,
  `route add ${ENTRANCE}/32 dev ${NEAR}`,
  `route add ${RECEIVER}/32 dev ${FAR}`,
  "",
].join("\n");

/** Its way in must not be known to connection tracking from its way out. */
const UNTRACKED = `add table ip ${TRIAL_TABLE}
delete table ip ${TRIAL_TABLE}
table ip ${TRIAL_TABLE} {
  chain leaving {
    type filter hook output priority -300
    ip daddr ${ENTRANCE} notrack
  }
}
`;

/** The table is applied and IPv4 is forwarded. `port`: one of the relay's, in use by nobody. */
export async function tryRelay(
  deps: { readonly exec: Exec; readonly table: RelayTable; readonly log: Logger },
  port: number,
  signal: AbortSignal,
): Promise<RelayTrial> {
  const { exec, table, log } = deps;
  let socket: Awaited<ReturnType<typeof openSender>> | null = null;
  let link: RelayLink | null = null;
  try {
    await removeTrial(exec, signal);
    await output(exec, ["ip", "-batch", "-"], { stdin: CABLE, signal });
    // The sender's address is this machine's own, and comes in by a cable.
    await writeFile(`/proc/sys/net/ipv4/conf/${FAR}/accept_local`, "1", { flag: "r+" });
    if ((await readFile("/proc/sys/net/ipv4/conf/all/rp_filter", "utf8")).trim() === "1") return "untried";
    await loadRuleset(exec, UNTRACKED, signal);
    socket = await openSender();
    link = {
      port,
      ends: [
        { address: SENDER, port: socket.port },
        { address: RECEIVER, port: 9 },
      ],
    };
    await table.change({ open: [port], put: [link] }, signal);
    const before = (await table.read(signal)).passed;
    const packet = new Uint8Array(32);
    packet[0] = 4; // as WireGuard's transport data looks
    for (let n = 0; n < TRIES; n++) {
      socket.send(packet, port, ENTRANCE);
      await sleep(SEND_AGAIN_MS, signal);
      if ((await table.read(signal)).passed > before) return "passed";
    }
    return "swallowed";
  } catch (thrown) {
    signal.throwIfAborted();
    log.debug({ error: errorText(thrown) }, "cannot try the kernel relay");
    return "untried";
  } finally {
    socket?.close();
    const cleaning = AbortSignal.timeout(CLEAN_MS); // also when the one who waits has gone
    if (link !== null) await table.change({ close: [port], remove: [link] }, cleaning);
    await removeTrial(exec, cleaning);
  }
}

function openSender() {
  return Bun.udpSocket({ hostname: SENDER, port: 0, socket: { data: () => undefined, error: () => undefined } });
}

/** What a trial that was killed has left, or nothing. */
export async function removeTrial(exec: Exec, signal: AbortSignal): Promise<void> {
  await exec.run(["ip", "link", "del", NEAR], { signal });
  await exec.run(["nft", "delete", "table", "ip", TRIAL_TABLE], { signal });
}
