// A process of a lab host that does one thing with the machine's network and says how it went: each run is a fresh start.
import { createLogger } from "../../src/base/log.ts";
import type { Role } from "../../src/proto/role.ts";
import { type Exec, systemExec } from "../../src/net/exec.ts";
import { IDENTIFIERS } from "../../src/net/identifiers.ts";
import { openJournal } from "../../src/net/journal-file.ts";
import type { SysctlKey } from "../../src/net/journal.ts";
import { readLinks } from "../../src/net/links.ts";
import { linuxSysctl } from "../../src/net/sysctl.ts";
import { undoAll } from "../../src/net/undo.ts";
import { watchLinks } from "../../src/net/watch-links.ts";
import { unpackedCarried } from "../../src/net/wg/carried.ts";
import type { WireGuardConfig, WireGuardPeer } from "../../src/net/wg/device.ts";
import { linuxWireGuard } from "../../src/net/wg/linux.ts";
import type { WireGuardKey } from "../../src/proto/keys.ts";

export type Order =
  | { readonly do: "apply"; readonly config: WireGuardConfig }
  | { readonly do: "set-peer"; readonly peer: WireGuardPeer }
  | { readonly do: "remove-peer"; readonly publicKey: WireGuardKey }
  | { readonly do: "stats" | "counters" | "reset" | "undo" | "links" | "watch" }
  | { readonly do: "sysctl"; readonly key: SysctlKey; readonly value: string }
  | {
      readonly do: "unpack";
      readonly carried: { readonly gzPath: string; readonly sha256: string };
      readonly dir: string;
    };

export interface DriverOptions {
  readonly role?: Role;
  /** Without it, what works first. */
  readonly only?: "kernel" | "carried" | "path";
  /** The process kills itself when it is about to run its n-th command, counted from 0. */
  readonly dieBefore?: number;
}

export type Said = { readonly ok: unknown } | { readonly code: string; readonly message: string };

/** `kill -9` at an exact place. */
function mortal(exec: Exec, dieBefore: number | undefined): Exec {
  let count = 0;
  return {
    run(argv, options) {
      if (count++ === dieBefore) process.kill(process.pid, "SIGKILL");
      return exec.run(argv, options);
    },
  };
}

async function obey(order: Order, options: DriverOptions): Promise<unknown> {
  const role = options.role ?? "client";
  const stateDir = `/var/lib/higgs-${role}`;
  await Bun.$`mkdir -p ${stateDir}`.quiet();
  const log = createLogger({ level: "debug", write: (line) => console.error(line) });
  const exec = mortal(systemExec(), options.dieBefore);
  const journal = await openJournal({ path: `${stateDir}/journal.json`, role, log });
  const signal = AbortSignal.timeout(30_000);
  const only = options.only === undefined ? {} : { only: options.only };
  const device = linuxWireGuard({ exec, journal, identifiers: IDENTIFIERS[role], log, ...only });
  switch (order.do) {
    case "apply":
      await device.apply(order.config, signal);
      return device.implementation();
    case "set-peer":
      return device.setPeer(order.peer, signal);
    case "remove-peer":
      return device.removePeer(order.publicKey, signal);
    case "stats":
      return device.stats(signal);
    case "counters":
      return device.counters();
    case "reset":
      return device.reset(signal);
    case "undo":
      return undoAll(role, { exec, journal, log, stateDir, signal });
    case "links":
      return readLinks(exec, signal);
    case "sysctl":
      return linuxSysctl({ journal, log }).set(order.key, order.value);
    case "unpack":
      return unpackedCarried({ ...order.carried, version: "v1" }, order.dir);
    case "watch": {
      await using _ = watchLinks({ log, onChange: () => console.log("change") });
      await new Promise((resolve) => process.once("SIGTERM", resolve));
      return null;
    }
  }
}

const [order, options] = process.argv.slice(2).map((text) => JSON.parse(text) as unknown) as [Order, DriverOptions];
let said: Said;
try {
  said = { ok: (await obey(order, options)) ?? null };
} catch (thrown) {
  const error = thrown instanceof Error ? thrown : new Error(String(thrown));
  said = { code: "code" in error ? String(error.code) : error.name, message: error.message };
}
console.log(JSON.stringify(said));
