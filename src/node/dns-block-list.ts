// Names that the node's owner wants nobody to find: lists as people publish them, read into one set; bounded.
import { open, stat } from "node:fs/promises";
import { errorText, HiggsError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { isWithin } from "./dns-private.ts";

export class BlockListError extends HiggsError {
  override readonly name = "BlockListError";
}

export interface BlockList {
  /** `name` in lower case without the last dot. */
  has(name: string): boolean;
  readonly size: number;
  /** Reads again what changed. A list that cannot be read meanwhile stays as it was. */
  refresh(): Promise<void>;
}

interface Names {
  /** From lists of hosts: these alone. */
  readonly hosts: ReadonlySet<string>;
  /** From lists of domains: with all below them. */
  readonly domains: ReadonlySet<string>;
}

/** The largest lists that people publish have half a million names. */
const MOST_NAMES = 1_000_000;
const MOST_FILE_BYTES = 64 * 1024 * 1024;
const NOWHERE: readonly string[] = ["0.0.0.0", "127.0.0.1", "::", "::1"];
/** A list of hosts begins with the machine's own names. */
const OWN_NAMES: readonly string[] = ["localhost", "localhost.localdomain", "local", "broadcasthost", "0.0.0.0"];
const NAME = /^[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*$/;

/**
 * One name a line, in any of three forms: `0.0.0.0 name…` as in /etc/hosts blocks those names, `name` or `*.name` blocks a
 * domain and all below it, and so does `||name^`. What is none of these is passed over. `#` and `!` begin a comment.
 */
export function parseBlockList(text: string, limit: number = MOST_NAMES): Names & { readonly isCut: boolean } {
  const hosts = new Set<string>();
  const domains = new Set<string>();
  for (const line of text.split("\n")) {
    if (hosts.size + domains.size >= limit) return { hosts, domains, isCut: true };
    const words = line
      .replace(/(^|\s)[#!].*$/, "")
      .toLowerCase()
      .trim()
      .split(/\s+/);
    const [first = "", ...rest] = words;
    if (NOWHERE.includes(first)) {
      for (const name of rest) if (isName(name) && !OWN_NAMES.includes(name)) hosts.add(bare(name));
    } else if (rest.length === 0) {
      const name = first.replace(/^\*\./, "").replace(/^\|\|(.*)\^$/, "$1");
      // A list of single labels would block whole top-level domains: nobody means that by accident.
      if (isName(name) && bare(name).includes(".")) domains.add(bare(name));
    }
  }
  return { hosts, domains, isCut: false };
}

function bare(name: string): string {
  return name.replace(/\.$/, "");
}

function isName(name: string): boolean {
  return name.length <= 254 && NAME.test(bare(name)) && !/^[\d.]+$/.test(name);
}

/** Throws BlockListError `bad-setting` for a file that cannot be read. */
export async function openBlockList(paths: readonly string[], log: Logger): Promise<BlockList> {
  const lists = new Map<string, { readonly names: Names; readonly stamp: string }>();
  for (const path of paths) lists.set(path, { names: await readList(path, log), stamp: await stampOf(path) });
  return {
    has: (name) => [...lists.values()].some(({ names }) => names.hosts.has(name) || isWithin(name, names.domains)),
    get size() {
      return [...lists.values()].reduce((sum, { names }) => sum + names.hosts.size + names.domains.size, 0);
    },
    async refresh() {
      for (const [path, known] of lists) {
        try {
          const stamp = await stampOf(path);
          if (stamp !== known.stamp) lists.set(path, { names: await readList(path, log), stamp });
        } catch (thrown) {
          log.warn({ path, reason: errorText(thrown) }, "a block list cannot be read; what it said before holds");
        }
      }
    },
  };
}

async function stampOf(path: string): Promise<string> {
  const { mtimeMs, size, ino } = await stat(path);
  return `${mtimeMs} ${size} ${ino}`;
}

async function readList(path: string, log: Logger): Promise<Names> {
  try {
    await using file = await open(path, "r");
    const { size } = await file.stat();
    if (size > MOST_FILE_BYTES) throw new Error(`it has ${size} bytes, more than ${MOST_FILE_BYTES}`);
    const { isCut, ...names } = parseBlockList(await file.readFile("utf8"));
    log.info({ path, names: names.hosts.size + names.domains.size, isCut }, "block list read");
    return names;
  } catch (cause) {
    throw new BlockListError(`Cannot read ${path} (--dns-block): ${errorText(cause)}.`, {
      code: "bad-setting",
      remedy: "Give a file of names, or take the setting away.",
      cause,
    });
  }
}
