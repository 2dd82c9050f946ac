// Looks for a text in the memory of a lab host's process: in its pages that are there, region by region.
import { closeSync, openSync, readdirSync, readFileSync, readlinkSync, readSync } from "node:fs";
import type { LabHost } from "../../src/lab/host.ts";

const PAGE_BYTES = 4096;
/** Bits 63 and 62 of a page's entry: in memory, or swapped out (kernel documentation, pagemap). */
const THERE = 0xc0;
const CHUNK_PAGES = 1024;

/** The machine's own pid of the host's process that was started with this command line. */
export function pidIn(host: LabHost, argv: readonly string[]): number {
  const network = readlinkSync(`/proc/${host.pid}/ns/net`);
  const commandLine = argv.map((argument) => `${argument}\0`).join("");
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const isIt = readFileSync(`/proc/${pid}/cmdline`, "utf8") === commandLine;
      if (isIt && readlinkSync(`/proc/${pid}/ns/net`) === network) return Number(pid);
    } catch {
      // over since it was listed
    }
  }
  throw new Error(`No process of "${host.name}" is "${argv.join(" ")}".`);
}

export function isInMemory(pid: number, text: string): boolean {
  const wanted = Buffer.from(text);
  const memory = openSync(`/proc/${pid}/mem`, "r");
  const pagemap = openSync(`/proc/${pid}/pagemap`, "r");
  try {
    return regionsOf(pid).some((region) => isInRegion(region, { wanted, memory, pagemap }));
  } finally {
    closeSync(memory);
    closeSync(pagemap);
  }
}

interface Region {
  readonly firstPage: number;
  readonly pages: number;
}

/** What can be read and written, hence what a process may have put data in. */
function regionsOf(pid: number): readonly Region[] {
  return readFileSync(`/proc/${pid}/maps`, "utf8")
    .split("\n")
    .flatMap((line) => {
      const match = /^([0-9a-f]+)-([0-9a-f]+) rw/.exec(line);
      if (match === null) return [];
      const [from, to] = [Number.parseInt(match[1] ?? "", 16), Number.parseInt(match[2] ?? "", 16)];
      return [{ firstPage: from / PAGE_BYTES, pages: (to - from) / PAGE_BYTES }];
    });
}

interface Search {
  readonly wanted: Buffer;
  readonly memory: number;
  readonly pagemap: number;
}

function isInRegion(region: Region, { wanted, memory, pagemap }: Search): boolean {
  const entries = Buffer.alloc(CHUNK_PAGES * 8);
  const page = Buffer.alloc(PAGE_BYTES);
  let tail = Buffer.alloc(0); // a text may lie across two pages
  for (let at = 0; at < region.pages; at += CHUNK_PAGES) {
    const count = Math.min(CHUNK_PAGES, region.pages - at);
    readSync(pagemap, entries, 0, count * 8, (region.firstPage + at) * 8);
    for (let n = 0; n < count; n++) {
      if (((entries[n * 8 + 7] ?? 0) & THERE) === 0) {
        tail = Buffer.alloc(0);
        continue;
      }
      readSync(memory, page, 0, PAGE_BYTES, (region.firstPage + at + n) * PAGE_BYTES);
      const text = Buffer.concat([tail, page]);
      if (text.includes(wanted)) return true;
      tail = Buffer.from(page.subarray(PAGE_BYTES - wanted.length));
    }
  }
  return false;
}
