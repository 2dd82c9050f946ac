// The tunnel's DNS servers as a record of resolvconf: Debian's or openresolv, told apart by what they say of themselves.
import { readFile } from "node:fs/promises";
import type { Logger } from "../../base/log.ts";
import { type Exec, type ExecResult, ToolMissing } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";
import type { Journal } from "../journal.ts";
import { searchDomainsOf } from "./domains.ts";
import { DnsRefused } from "./errors.ts";
import type { DnsPolicy } from "./system-dns.ts";

/** systemd's resolvectl under this name is neither: systemd-resolved is told as itself. */
export type ResolvconfProgram = "debian" | "openresolv";

export interface RecordDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly log: Logger;
  readonly identifiers: Pick<Identifiers, "interface">;
  /** Default /run/resolvconf. */
  readonly resolvconfDir?: string;
}

/** Debian's puts `tun*` before every real interface. */
export function recordName(identifiers: Pick<Identifiers, "interface">): string {
  return `tun.${identifiers.interface}`;
}

/** Null where neither is there. */
export async function resolvconfProgram(exec: Exec, signal: AbortSignal): Promise<ResolvconfProgram | null> {
  try {
    return programOf((await exec.run(["resolvconf", "--version"], { signal })).stdout);
  } catch (thrown) {
    if (thrown instanceof ToolMissing) return null;
    throw thrown;
  }
}

export function programOf(version: string): ResolvconfProgram | null {
  if (version.startsWith("Debian resolvconf")) return "debian";
  return version.startsWith("openresolv") ? "openresolv" : null;
}

/** What the record says now; null where there is none. Everybody may read it. */
export async function readRecord(deps: Pick<RecordDeps, "identifiers" | "resolvconfDir">): Promise<string | null> {
  const dir = deps.resolvconfDir ?? "/run/resolvconf";
  for (const records of ["interface", "interfaces"]) {
    try {
      return await readFile(`${dir}/${records}/${recordName(deps.identifiers)}`, "utf8");
    } catch {
      // the other program's folder, or no record
    }
  }
  return null;
}

/** False where no resolvconf takes it: the caller then sets the file by itself. */
export async function setRecord(deps: RecordDeps, policy: DnsPolicy, signal: AbortSignal): Promise<boolean> {
  const { exec, journal, log, identifiers } = deps;
  const wanted = recordText(policy);
  if ((await readRecord(deps))?.trim() === wanted.trim() && isJournaled(journal)) return true;
  const program = await resolvconfProgram(exec, signal);
  if (program === null) return false;
  await journal.add({ kind: "resolvconf-record" });
  log.info({ servers: policy.servers, program }, "setting the DNS servers in resolvconf");
  const { code, stderr } = await exec.run(addArgv(program, recordName(identifiers)), { stdin: wanted, signal });
  if (code === 0) return true;
  log.warn({ code, stderr: stderr.trim() }, "resolvconf did not take the DNS servers");
  return false;
}

/** Takes ours away, with or without the journal's memory. True when there was one. */
export async function removeRecord(deps: RecordDeps, signal: AbortSignal): Promise<boolean> {
  const { exec, journal, identifiers } = deps;
  const isThere = (await readRecord(deps)) !== null;
  if (isThere || isJournaled(journal)) {
    const program = await resolvconfProgram(exec, signal);
    // A boot takes the records away, and leaves what openresolv wrote of them into the file.
    const argv = isThere ? deleteArgv(program, recordName(identifiers)) : UPDATE;
    if (program !== null) mustWork(await exec.run(argv, { signal }));
  }
  await journal.remove({ kind: "resolvconf-record" });
  return isThere;
}

/** The first in the list, and with openresolv the only one: Debian's knows no such thing. */
export function addArgv(program: ResolvconfProgram, record: string): readonly [string, ...string[]] {
  return program === "debian" ? ["resolvconf", "-a", record] : ["resolvconf", "-x", "-m", "0", "-a", record];
}

const UPDATE = ["resolvconf", "-u"] as const;

function deleteArgv(program: ResolvconfProgram | null, record: string): readonly [string, ...string[]] {
  return program === "openresolv" ? ["resolvconf", "-f", "-d", record] : ["resolvconf", "-d", record];
}

export function recordText(policy: DnsPolicy): string {
  const domains = searchDomainsOf(policy);
  const search = domains.length > 0 ? [`search ${domains.join(" ")}`] : [];
  return `${[...policy.servers.map((server) => `nameserver ${server}`), ...search].join("\n")}\n`;
}

function isJournaled(journal: Pick<Journal, "entries">): boolean {
  return journal.entries().some((entry) => entry.kind === "resolvconf-record");
}

function mustWork({ code, stderr }: ExecResult): void {
  if (code === 0) return;
  throw new DnsRefused(`Cannot take the DNS servers out of resolvconf: ${stderr.trim() || `exit code ${code}`}.`, {
    code: "resolvconf-refused",
    remedy: "sudo resolvconf -u",
    detail: { code, stderr },
  });
}
