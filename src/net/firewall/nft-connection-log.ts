// The record of connections as an nft table of its own: sets that the exit's packets fill, and that forget by themselves.
import { z } from "zod";
import { SerialQueue } from "../../base/async.ts";
import { parseIp } from "../../base/ip.ts";
import type { Logger } from "../../base/log.ts";
import type { Exec } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";
import type { Journal } from "../journal.ts";
import { type ConnectionLog, SEEN_S, type SeenConnection } from "./connection-log.ts";
import { isMissing, loadRuleset, nftFailed, readTable, removeTable } from "./nft.ts";
import { type NftSet, type NftTable, quotedInterface, replacementText, tableDifferences } from "./nft-table.ts";

export interface NftConnectionLogDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly identifiers: Pick<Identifiers, "interface" | "logTable">;
  readonly log: Logger;
}

/** After the exit's own rules (-5): what they refuse is no connection. */
const AFTER_EXIT = -4;
/** Destinations in a minute; what comes when all are taken is not seen. */
const MOST_SEEN = 16_384;

export function connectionLogTable(name: string, tunnel: string): NftTable {
  const set = (family: 4 | 6): NftSet => ({
    name: `seen${family}`,
    type: `ipv${family}_addr . inet_proto . ipv${family}_addr . inet_service`,
    flags: ["dynamic", "timeout"],
    size: MOST_SEEN,
    timeoutS: SEEN_S,
    elements: [],
  });
  const see = (ip: "ip" | "ip6", family: 4 | 6) => ({
    text: `meta nfproto ipv${family} ct state new meta l4proto { tcp, udp } add @seen${family} { ${ip} saddr . meta l4proto . ${ip} daddr . th dport }`,
    why: "kept on record",
  });
  return {
    name,
    sets: [set(4), set(6)],
    chains: [
      {
        name: "forward",
        type: "filter",
        hook: "forward",
        priority: AFTER_EXIT,
        policy: "accept",
        rules: [
          { text: `iifname != ${quotedInterface(tunnel)} return`, why: "not of the tunnel" },
          see("ip", 4),
          see("ip6", 6),
        ],
      },
    ],
  };
}

/** Calls are done one after the other, in their order. */
export function nftConnectionLog(deps: NftConnectionLogDeps): ConnectionLog {
  const { exec, journal, identifiers, log } = deps;
  const queue = new SerialQueue();
  const table = connectionLogTable(identifiers.logTable, identifiers.interface);
  let isOn = false;
  const differences = async (signal: AbortSignal): Promise<readonly string[]> =>
    isOn ? tableDifferences(table, await readTable(exec, table.name, { signal, terse: true })) : [];

  return {
    apply: (on, signal) =>
      queue.run(async () => {
        isOn = on;
        if (!on) {
          const wasThere = await removeTable(exec, { table: table.name }, signal);
          if (wasThere) log.info({}, "connections are no longer kept on record");
          await journal.remove({ kind: "log-table" });
          return;
        }
        if ((await differences(signal)).length === 0) return;
        log.info({ forS: SEEN_S }, "keeping connections on record");
        await journal.add({ kind: "log-table" });
        await loadRuleset(exec, replacementText(table), signal);
      }),
    verify: (signal) => queue.run(() => differences(signal)),
    read: (signal) =>
      queue.run(async () => {
        const found: SeenConnection[] = [];
        for (const { name } of table.sets) {
          const argv = ["nft", "-j", "list", "set", "inet", table.name, name] as const;
          const result = await exec.run(argv, { signal });
          if (result.code === 0) found.push(...seenIn(JSON.parse(result.stdout)));
          else if (!isMissing(result.stderr)) throw nftFailed(`read the set "${name}"`, result);
        }
        return found;
      }),
  };
}

const ELEMENT = z.object({
  elem: z.object({
    val: z.object({ concat: z.tuple([z.string(), z.union([z.string(), z.number()]), z.string(), z.number()]) }),
    expires: z.number(),
  }),
});
const SET = z.object({
  nftables: z.array(z.object({ set: z.object({ elem: z.array(z.unknown()).default([]) }).optional() })),
});
const PROTOCOL: Readonly<Record<string, "tcp" | "udp">> = { tcp: "tcp", udp: "udp", "6": "tcp", "17": "udp" };

/** From the JSON of `nft -j list set`; what is not as we make it is passed over. */
export function seenIn(json: unknown): readonly SeenConnection[] {
  const elements = SET.parse(json).nftables.flatMap((item) => item.set?.elem ?? []);
  return elements.flatMap((element): SeenConnection[] => {
    const parsed = ELEMENT.safeParse(element);
    if (!parsed.success) return [];
    const { val, expires } = parsed.data.elem;
    const [from, protocolName, to, port] = val.concat;
    const client = parseIp(from);
    const address = parseIp(to);
    const protocol = PROTOCOL[protocolName];
    if (client === null || address === null || protocol === undefined) return [];
    return [{ client, protocol, address, port, ageS: Math.max(0, SEEN_S - expires) }];
  });
}
