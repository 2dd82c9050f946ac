// Kernel settings under /proc/sys: written only where they differ, journaled before, put back only if still ours.
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { errorText, HiggsError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { isInterfaceName } from "./interface-name.ts";
import type { Journal, SysctlKey, UndoEntry } from "./journal.ts";

export interface Sysctl {
  /** The value without its line end; null where the kernel has no such setting (IPv6 switched off, no such interface). */
  read(key: SysctlKey): Promise<string | null>;
  /** Nothing is written when it is as wanted. Throws SysctlRefused where it may not or cannot be written. */
  set(key: SysctlKey, value: string): Promise<void>;
  /** Which settings in the journal are not as we set them, as sentences. */
  verify(): Promise<readonly string[]>;
  /** Puts back every setting in the journal whose value is still ours; harmless twice. Returns a sentence for each. */
  restore(): Promise<readonly string[]>;
}

export class SysctlRefused extends HiggsError {
  override readonly name = "SysctlRefused";
}

export interface SysctlDeps {
  readonly journal: Journal;
  readonly log: Logger;
  /** Where the kernel shows its settings. */
  readonly rootDir?: string;
}

const PLAIN_KEYS: readonly string[] = [
  "net.ipv4.ip_forward",
  "net.ipv6.conf.all.forwarding",
  "net.ipv4.conf.all.src_valid_mark",
  "net.ipv4.conf.all.arp_ignore",
  "net.ipv4.conf.all.accept_redirects",
] satisfies readonly SysctlKey[];
/**
 * The kernel sets this one with each change of ip_forward, to the opposite (inet_forward_change in net/ipv4/devinet.c): off while we
 * forward, and on afterwards, whatever it was before.
 */
const REDIRECTS: SysctlKey = "net.ipv4.conf.all.accept_redirects";
const REDIRECTS_WHILE_FORWARDING = "0";
const ACCEPT_RA = /^net\.ipv6\.conf\.(.+)\.accept_ra$/;
/** Every setting of the list is a small number. */
const VALUE = /^-?\d{1,10}$/;

/** Null for anything that is not on the list of settings that higgs may write. */
export function parseSysctlKey(text: string): SysctlKey | null {
  if (PLAIN_KEYS.includes(text)) return text as SysctlKey;
  const interfaceName = ACCEPT_RA.exec(text)?.[1];
  return interfaceName !== undefined && isInterfaceName(interfaceName) ? (text as SysctlKey) : null;
}

export function isSysctlValue(text: string): boolean {
  return VALUE.test(text);
}

/** The file below /proc/sys. An interface's name is one folder, also with dots in it (eth0.10). */
export function sysctlFile(key: SysctlKey): string {
  if (parseSysctlKey(key) === null) {
    throw new SysctlRefused(`Cannot touch the kernel setting "${key}": it is not one that higgs may change.`, {
      code: "sysctl-unknown",
    });
  }
  const interfaceName = ACCEPT_RA.exec(key)?.[1];
  return interfaceName === undefined ? key.replaceAll(".", "/") : `net/ipv6/conf/${interfaceName}/accept_ra`;
}

export function linuxSysctl(deps: SysctlDeps): Sysctl {
  const rootDir = deps.rootDir ?? "/proc/sys";
  const read = async (key: SysctlKey): Promise<string | null> => {
    try {
      return (await readFile(join(rootDir, sysctlFile(key)), "utf8")).trim();
    } catch (thrown) {
      if (codeOf(thrown) === "ENOENT") return null;
      throw refused(key, "read", thrown);
    }
  };
  // The file is there or it is not: nothing is ever created under the root.
  const write = async (key: SysctlKey, value: string): Promise<void> => {
    try {
      await writeFile(join(rootDir, sysctlFile(key)), `${value}\n`, { flag: "r+" });
    } catch (thrown) {
      throw refused(key, "write", thrown);
    }
  };

  const putBack = async (entry: SysctlEntry): Promise<string | null> => {
    const now = await read(entry.key);
    if (now === null || now === entry.before) return null;
    if (now !== entry.ours && entry.key !== REDIRECTS)
      return `Left the kernel setting ${entry.key} at ${now}: somebody else set it.`;
    deps.log.info({ key: entry.key, before: now, value: entry.before }, "putting back a kernel setting");
    try {
      await write(entry.key, entry.before);
    } catch (thrown) {
      if ((await read(entry.key)) === null) return null; // it went with its interface meanwhile
      throw thrown;
    }
    return `Put the kernel setting ${entry.key} back to ${entry.before}.`;
  };

  return {
    read,
    async set(key, value) {
      const before = await read(key);
      if (before === value) return;
      if (before === null || !isSysctlValue(value) || !isSysctlValue(before)) {
        const state = before === null ? "this kernel has none" : `it is "${before}"`;
        throw new SysctlRefused(`Cannot set "${key}" to "${value}": ${state}.`, {
          code: "sysctl-refused",
          detail: { key },
        });
      }
      const entry: UndoEntry = { kind: "sysctl", key, before, ours: value };
      const known = journaled(deps.journal).some((one) => one.key === key);
      // Before ip_forward, and so put back after it.
      const redirects = key === "net.ipv4.ip_forward" && !known ? await read(REDIRECTS) : null;
      const also: UndoEntry | null =
        redirects === null || !isSysctlValue(redirects)
          ? null
          : { kind: "sysctl", key: REDIRECTS, before: redirects, ours: REDIRECTS_WHILE_FORWARDING };
      if (also !== null) await deps.journal.add(also);
      await deps.journal.add(entry);
      deps.log.info({ key, before, value }, "setting a kernel setting");
      try {
        await write(key, value);
      } catch (thrown) {
        if (!known) await deps.journal.remove(entry); // nothing was changed
        if (also !== null) await deps.journal.remove(also);
        throw thrown;
      }
    },
    async verify() {
      const found = await Promise.all(
        journaled(deps.journal).map(async ({ key, ours }) => {
          const now = await read(key);
          return now === null || now === ours ? [] : [`The kernel setting ${key} is ${now} instead of ${ours}.`];
        }),
      );
      return found.flat();
    },
    async restore() {
      const done: string[] = [];
      for (const entry of journaled(deps.journal).toReversed()) {
        try {
          const sentence = await putBack(entry);
          if (sentence !== null) done.push(sentence);
          await deps.journal.remove(entry);
        } catch (thrown) {
          // The entry stays for another try; the other settings are put back all the same.
          deps.log.warn({ key: entry.key, error: errorText(thrown) }, "cannot put back a kernel setting");
          done.push(`Could not put the kernel setting ${entry.key} back to ${entry.before}: ${errorText(thrown)}`);
        }
      }
      return done;
    },
  };
}

type SysctlEntry = Extract<UndoEntry, { kind: "sysctl" }>;

function journaled(journal: Journal): readonly SysctlEntry[] {
  return journal.entries().filter((entry) => entry.kind === "sysctl");
}

function codeOf(thrown: unknown): string {
  return thrown instanceof Error && "code" in thrown && typeof thrown.code === "string" ? thrown.code : "";
}

function refused(key: SysctlKey, verb: "read" | "write", thrown: unknown): SysctlRefused {
  return new SysctlRefused(`Cannot ${verb} the kernel setting "${key}": ${errorText(thrown)}.`, {
    code: "sysctl-refused",
    remedy: `As root, outside a restricted container: sysctl -w ${key}=…`,
    detail: { key },
    cause: thrown,
  });
}
