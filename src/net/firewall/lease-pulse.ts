// Sends the datagram by which a node renews or ends its lease in iptables, and hears whether a rule took it.
import { errorText } from "../../base/errors.ts";
import type { Family } from "../../base/ip.ts";
import { markOption, setSocketOption } from "../socket-option.ts";
import { fdOf } from "../udp-options.ts";
import { LeaseNotRenewed } from "./errors.ts";

export interface PulseTarget {
  readonly family: Family;
  readonly port: number;
  readonly mark: number;
}

/** "taken" by a rule; "passed" where there is none; "no-family" where this machine has no loopback address of the family. */
export type PulseOutcome = "taken" | "passed" | "no-family";

export type Pulse = (target: PulseTarget) => Promise<PulseOutcome>;

const LOOPBACK: Readonly<Record<Family, string>> = { 4: "127.0.0.1", 6: "::1" };

/** The kernel tells the sender at once of a datagram that a rule of OUTPUT drops. Throws LeaseNotRenewed where it cannot be marked. */
export async function sendPulse({ family, port, mark }: PulseTarget): Promise<PulseOutcome> {
  const socket = await open(LOOPBACK[family]);
  if (socket === null) return "no-family";
  try {
    if (!(await setSocketOption(fdOf(socket) ?? -1, markOption(mark)))) {
      throw notRenewed("this process cannot mark its packets");
    }
    socket.send(new Uint8Array(1), port, LOOPBACK[family]);
    return "passed";
  } catch (thrown) {
    if (codeOf(thrown) === "EPERM") return "taken";
    if (thrown instanceof LeaseNotRenewed) throw thrown;
    throw notRenewed(errorText(thrown));
  } finally {
    socket.close();
  }
}

async function open(hostname: string) {
  try {
    // Without a handler an ICMP error would end the process.
    return await Bun.udpSocket({ hostname, port: 0, socket: { error: () => undefined } });
  } catch (thrown) {
    if (["EADDRNOTAVAIL", "EAFNOSUPPORT"].includes(codeOf(thrown))) return null;
    throw notRenewed(errorText(thrown));
  }
}

function codeOf(thrown: unknown): string {
  return thrown instanceof Error && "code" in thrown ? String(thrown.code) : "";
}

function notRenewed(why: string): LeaseNotRenewed {
  return new LeaseNotRenewed(`Cannot renew the exit's lease: ${why}.`, { code: "lease-not-renewed" });
}
