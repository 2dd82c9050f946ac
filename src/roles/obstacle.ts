// What of this machine's other programs keeps everything from a client's tunnel, as an error that says what mends it.
import { ConnectError } from "../client/connection.ts";
import { switchOff } from "../net/routes/rules-before.ts";
import type { MachineSystem } from "../net/system.ts";

/** A rule that comes before ours takes everything with it, and the firewall then lets none of it out: better said than tried. */
export async function obstacleHere(
  os: Pick<MachineSystem, "rulesBefore">,
  signal: AbortSignal,
): Promise<ConnectError | null> {
  const [sentence] = await os.rulesBefore(signal);
  if (sentence === undefined) return null;
  return new ConnectError(`Cannot send everything through the exit. ${sentence}`, {
    code: "rule-before-ours",
    remedy: switchOff(sentence) ?? "ip rule",
  });
}
