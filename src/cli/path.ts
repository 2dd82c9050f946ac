// `higgs ping`, `higgs why` and `higgs netcheck`: how packets get to another machine, and what stands in their way.
import { Command } from "commander";
import { z } from "zod";
import { sleep } from "../base/async.ts";
import { UsageError } from "../roles/config.ts";
import { type Context, jsonOption } from "./context.ts";
import { EXIT } from "./exit-codes.ts";
import { interruptSignal } from "./interrupt.ts";
import { ask, chooseRole } from "./local.ts";
import { table } from "./output.ts";
import { type Place, placed } from "./place.ts";
import { portMappingShape, portMappingText } from "./status-text.ts";

const reply = z.object({ rttMs: z.number().nullable(), path: z.string() });
/** While a direct path is waited for, a second is too coarse. */
const UNTIL_DIRECT_MS = 200;
const MOST_PINGS = 100_000;

interface PingFlags extends Place {
  readonly count?: string;
  readonly untilDirect?: boolean;
  readonly json?: boolean;
}

export function pingCommand({ term, setExitCode }: Context): Command {
  return placed(new Command("ping").argument("<name>", "a machine of the network"), ["node", "client"])
    .description("one line a reply: time, and the path it took")
    .option("-c, --count <n>", "how many; default 4, or 50 with --until-direct")
    .option("--until-direct", "end with the first reply that came directly")
    .addOption(jsonOption())
    .action(async (name: string, flags: PingFlags) => {
      const untilDirect = flags.untilDirect === true;
      const count = countOf(flags.count ?? (untilDirect ? "50" : "4"));
      const target = await chooseRole(["node", "client"], flags);
      const signal = interruptSignal();
      const replies: { seq: number; rttMs: number; path: string }[] = [];
      let sent = 0;
      let direct = false;
      while (sent < count && !(untilDirect && direct)) {
        if (sent > 0) await sleep(untilDirect ? UNTIL_DIRECT_MS : 1000, signal);
        const seq = ++sent;
        const answer = reply.parse(await ask(target, "ping", { body: { name }, signal }));
        direct = answer.rttMs !== null && answer.path === "direct";
        if (answer.rttMs !== null) replies.push({ seq, rttMs: answer.rttMs, path: answer.path });
        if (flags.json !== true) term.out(replyText(name, seq, answer));
      }
      const loss = 1 - replies.length / sent;
      if (flags.json === true) term.out(JSON.stringify({ schema: "higgs.ping/1", replies, loss }));
      if (untilDirect && !direct) {
        term.err(`No direct path to ${name}. Why: higgs why ${name}`);
        setExitCode(EXIT.failed);
      } else if (replies.length === 0) setExitCode(EXIT.failed);
    });
}

function countOf(text: string): number {
  const count = Number(text);
  if (Number.isInteger(count) && count >= 1 && count <= MOST_PINGS) return count;
  throw new UsageError(`Cannot ping "${text}" times.`, { code: "usage", remedy: "-c 4" });
}

function replyText(name: string, seq: number, answer: z.infer<typeof reply>): string {
  if (answer.rttMs === null) return `no reply from ${name}: seq ${seq}`;
  return `reply from ${name}: seq ${seq}, ${answer.rttMs.toFixed(2)} ms by ${answer.path}`;
}

const explanation = z.object({ path: z.string(), causes: z.array(z.string()), remedies: z.array(z.string()) }).loose();

export function whyCommand({ term }: Context): Command {
  return placed(new Command("why").argument("<name>", "a machine of the network"), ["node", "client"])
    .description("why this path, as a chain of causes, and what would make it better")
    .addOption(jsonOption())
    .action(async (name: string, flags: Place & { json?: boolean }) => {
      const target = await chooseRole(["node", "client"], flags);
      const answer = await ask(target, "why", { body: { name }, signal: interruptSignal() });
      if (flags.json === true) {
        term.out(JSON.stringify(answer));
        return;
      }
      const { causes, remedies } = explanation.parse(answer);
      causes.forEach((cause, i) => term.out(i === 0 ? cause : `  because: ${cause}`));
      for (const remedy of remedies) term.out(`  ${term.paint("dim", "→")} ${remedy}`);
    });
}

const checked = z
  .object({
    server: z.string(),
    proxy: z.string().nullable(),
    sharing: z.string().nullable(),
    udp: z.boolean().nullable(),
    ipv4: z.string().nullable(),
    ipv6: z.string().nullable(),
    nat: z.enum(["none", "preserved", "independent", "sequential", "random"]).nullable(),
    mappingLifeS: z.number().nullable(),
    portMapping: portMappingShape,
    servers: z.array(z.object({ address: z.string(), rttMs: z.number().nullable() })),
  })
  .loose();

/** How the router gives out ports (RFC 4787 section 4.1), and what it means for a direct path. */
const NAT_TEXTS = {
  none: "none: this machine has a public address",
  preserved: "keeps port numbers: direct paths to most others",
  independent: "one port for all destinations: direct paths to most others",
  sequential: "another port for each destination, in a row: direct paths to most others",
  random: "another port for each destination, at random: direct paths to some others, after a search",
} as const;

export function netcheckCommand({ term }: Context): Command {
  return placed(new Command("netcheck"), ["node", "client"])
    .description("UDP, addresses, what kind of NAT, a port mapped by the router, and the latency to each server")
    .addOption(jsonOption())
    .action(async (flags: Place & { json?: boolean }) => {
      const target = await chooseRole(["node", "client"], flags);
      const answer = await ask(target, "netcheck", { signal: interruptSignal() });
      if (flags.json === true) {
        term.out(JSON.stringify(answer));
        return;
      }
      const found = checked.parse(answer);
      const yesNo = (value: boolean | null): string => (value === null ? "not known" : value ? "yes" : "no");
      const rows = [
        ["server", found.server],
        ...(found.proxy === null ? [] : [["proxy", found.proxy]]),
        ["WireGuard's port", found.sharing === null ? "not shared" : `shared by ${found.sharing}`],
        ["UDP", yesNo(found.udp)],
        ["IPv4", found.ipv4 ?? "no"],
        ["IPv6", found.ipv6 ?? "no"],
        ["NAT", found.nat === null ? "not known" : NAT_TEXTS[found.nat]],
        ["idle mapping is kept for", lifeText(found.mappingLifeS)],
        ["port mapped by the router", portMappingText(found.portMapping)],
        ...found.servers.map(({ address, rttMs }) => [
          `latency to ${address}`,
          rttMs === null ? "no answer" : `${rttMs.toFixed(1)} ms`,
        ]),
      ];
      for (const line of table(rows)) term.out(line);
    });
}

function lifeText(seconds: number | null): string {
  if (seconds === null) return "not known";
  return seconds === 0 ? "less than 2.5 s" : `${seconds} s at least`;
}
