// Discovery by nft: a socket of its own, and two rules that make its port WireGuard's to the world.
import { parseIp } from "../../base/ip.ts";
import type { Logger } from "../../base/log.ts";
import type { Exec } from "../exec.ts";
import { loadRuleset, readTable, removeTable } from "../firewall/nft.ts";
import { replacementText, tableDifferences, tableText } from "../firewall/nft-table.ts";
import type { Identifiers } from "../identifiers.ts";
import type { Journal } from "../journal.ts";
import { demuxTable } from "./demux-table.ts";
import { type Discovery, DiscoveryFailed, type DiscoveryOptions, type DiscoveryPort } from "./discovery.ts";
import { openPortSockets, openSidePort, type PortSockets, type PortSocketsOptions } from "./port-sockets.ts";

export interface NftDiscoveryDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly identifiers: Pick<Identifiers, "demuxTable" | "mark">;
  readonly log: Logger;
}

/** Long enough for a busy machine; disposing must not hang. */
const REMOVE_TIMEOUT_MS = 5000;

export function nftDiscovery(deps: NftDiscoveryDeps): DiscoveryPort {
  return { mechanism: "nft", open: (options, signal) => open(deps, options, signal) };
}

/** True when this kernel takes such rules. They are made and taken away in one transaction: nothing of them is ever in place. */
export async function canShareByNft(
  deps: Pick<NftDiscoveryDeps, "exec"> & { readonly identifiers: Pick<Identifiers, "demuxTable"> },
  signal: AbortSignal,
): Promise<boolean> {
  const name = `${deps.identifiers.demuxTable}_trial`;
  const text = `${tableText(demuxTable(name, { wireGuard: 1, discovery: 2, uid: 0 }))}delete table inet ${name}\n`;
  return (await deps.exec.run(["nft", "-f", "-"], { stdin: text, signal })).code === 0;
}

/**
 * The port after WireGuard's if it is free, so that a process that starts again has the port of the one before: the rules that lead
 * it past a full tunnel are that one's still.
 */
async function openNear(wireGuardPort: number, options: Omit<PortSocketsOptions, "port">): Promise<PortSockets> {
  const port = wireGuardPort < 65_535 ? wireGuardPort + 1 : wireGuardPort - 1;
  try {
    return await openPortSockets({ ...options, port });
  } catch (thrown) {
    if (!(thrown instanceof DiscoveryFailed) || thrown.code !== "port-busy") throw thrown;
    return await openPortSockets({ ...options, port: 0 });
  }
}

async function open(deps: NftDiscoveryDeps, options: DiscoveryOptions, signal: AbortSignal): Promise<Discovery> {
  const { exec, journal, log } = deps;
  const name = deps.identifiers.demuxTable;
  let dropped = 0;
  await using stack = new AsyncDisposableStack();
  const sockets = stack.use(
    await openNear(options.wireGuardPort, {
      onDatagram(bytes, fromAddress, port) {
        const address = parseIp(fromAddress);
        if (address === null) dropped++;
        else options.onMessage(bytes, { address, port });
      },
      onError() {
        dropped++;
      },
    }),
  );
  const ports = { wireGuard: options.wireGuardPort, discovery: sockets.port };
  const table = demuxTable(name, { ...ports, uid: process.getuid?.() ?? 0 });
  await journal.add({ kind: "demux-table" });
  log.info(ports, "sharing WireGuard's port with discovery");
  try {
    await loadRuleset(exec, replacementText(table), signal);
  } catch (cause) {
    signal.throwIfAborted();
    throw new DiscoveryFailed(`Cannot share UDP port ${options.wireGuardPort} with WireGuard: nft refuses the rules.`, {
      code: "demux-failed",
      cause,
    });
  }
  const held = stack.move();
  let isOver = false;
  return {
    mechanism: "nft",
    port: sockets.port,
    publicPort: options.wireGuardPort,
    families: sockets.families,
    get dropped() {
      return dropped;
    },
    send(bytes, to) {
      const sent = sockets.send(bytes, to);
      if (!sent) dropped++;
      return sent;
    },
    sendMany(packets, to) {
      const sent = sockets.sendMany(packets, to);
      dropped += packets.length - sent;
      return sent;
    },
    accept: () => undefined, // the kernel does it
    openSide(onDatagram) {
      return openSidePort({
        mark: deps.identifiers.mark,
        onDatagram(bytes, fromAddress, port) {
          const address = parseIp(fromAddress);
          if (address === null) dropped++;
          else onDatagram(bytes, { address, port });
        },
        onError() {
          dropped++;
        },
      });
    },
    async repair(repairSignal) {
      if (tableDifferences(table, await readTable(exec, name, repairSignal)).length === 0) return false;
      await loadRuleset(exec, replacementText(table), repairSignal);
      return true;
    },
    async [Symbol.asyncDispose]() {
      if (isOver) return;
      isOver = true;
      await held.disposeAsync();
      await removeTable(exec, { table: name }, AbortSignal.timeout(REMOVE_TIMEOUT_MS));
      await journal.remove({ kind: "demux-table" });
    },
  };
}
