// What a role changed on this machine, found in the real system by its fixed names and in its journal: also when the journal is lost.
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import type { Role } from "../proto/role.ts";
import { isJournaledByHelper } from "./dns/resolv-conf-helper.ts";
import { isOurs } from "./dns/resolv-conf-text.ts";
import { readIfAllowed } from "./dns/resolv-conf-file.ts";
import { readRecord, recordName } from "./dns/resolvconf-record.ts";
import { type Exec, type ExecResult, ToolMissing } from "./exec.ts";
import { listChains } from "./firewall/iptables.ts";
import { nftFailed } from "./firewall/nft.ts";
import { IDENTIFIERS } from "./identifiers.ts";
import type { Journal, UndoEntry } from "./journal.ts";
import { RELAY_TABLE } from "./relay-table.ts";
import { listRulesAndRoutes } from "./routes/linux.ts";
import { readLink, readRoutes } from "./wg/link.ts";

export interface Change {
  readonly kind: "device" | "table" | "rule" | "route" | "setting" | "dns" | "file";
  /** As a person would type or find it: `nft table inet higgs_node`. */
  readonly what: string;
  /** What it consists of, a line each. */
  readonly lines: readonly string[];
  /** False for what is found by its name alone. */
  readonly isJournaled: boolean;
}

export interface ChangesDeps {
  readonly exec: Exec;
  readonly journal: Pick<Journal, "entries">;
  readonly stateDir: string;
  readonly signal: AbortSignal;
  /** False where this kernel or machine has no nft, and so no tables; default true. */
  readonly hasNft?: boolean;
  /** Default /etc/resolv.conf. */
  readonly resolvConfPath?: string;
}

/** Throws ToolFailed where the tools do not answer, as for a user who may not ask. */
export async function listChanges(role: Role | "server", deps: ChangesDeps): Promise<readonly Change[]> {
  const ofMachine = async (list: (machine: Role, deps: ChangesDeps) => Promise<readonly Change[]>) =>
    role === "server" ? [] : await list(role, deps);
  const found = await Promise.all([
    ofMachine(device),
    tables(role, deps),
    ofMachine(chains),
    ofMachine(rulesAndRoutes),
    ofMachine(dns),
    stateFiles(deps),
  ]);
  return [...found.flat(), ...settings(deps)];
}

async function device(role: Role, { exec, journal, signal }: ChangesDeps): Promise<readonly Change[]> {
  const { interface: name } = IDENTIFIERS[role];
  const link = await readLink(exec, name, signal);
  if (link === null) return [];
  const addresses = link.addresses.map(({ address, prefixLength }) => `address ${address}/${prefixLength}`);
  const routes = (await readRoutes(exec, name, signal)).map((prefix) => `route ${prefix}`);
  const lines = [`${link.kind}, MTU ${link.mtu}, ${link.isUp ? "up" : "down"}`, ...addresses, ...routes];
  return [{ kind: "device", what: `interface ${name}`, lines, isJournaled: has(journal, "wireguard-device") }];
}

const TABLES = z.object({
  nftables: z.array(z.object({ table: z.object({ family: z.string(), name: z.string() }).optional() })),
});

async function tables(role: Role | "server", deps: ChangesDeps): Promise<readonly Change[]> {
  const { exec, journal, signal } = deps;
  if (deps.hasNft === false) return [];
  const listed = await orMissing(exec.run(["nft", "-j", "list", "tables"], { signal }));
  if (listed === null) return [];
  if (listed.code !== 0) throw nftFailed("list the nft tables", listed);
  const all = TABLES.parse(JSON.parse(listed.stdout)).nftables.flatMap((item) => item.table ?? []);
  const stem = role === "server" ? RELAY_TABLE : `higgs_${role}`;
  const ours = all.filter(({ name }) => name === stem || name.startsWith(`${stem}_`));
  const kinds = tableKinds(role);
  return await Promise.all(
    ours.map(async ({ family, name }): Promise<Change> => {
      const shown = await exec.run(["nft", "list", "table", family, name], { signal });
      const kind = kinds.get(name);
      return {
        kind: "table",
        what: `nft table ${family} ${name}`,
        lines: shown.stdout.split("\n").filter((line) => line.trim() !== ""),
        isJournaled: kind !== undefined && has(journal, kind),
      };
    }),
  );
}

async function chains(role: Role, { exec, journal, signal }: ChangesDeps): Promise<readonly Change[]> {
  const found = await listChains(exec, IDENTIFIERS[role].chainPrefix, signal);
  return found.map((one): Change => ({ kind: "table", ...one, isJournaled: has(journal, "iptables-chains") }));
}

function tableKinds(role: Role | "server"): ReadonlyMap<string, UndoEntry["kind"]> {
  if (role === "server") return new Map([[RELAY_TABLE, "nft-table"]]);
  const { table, demuxTable, redirectTable, logTable, egressTable } = IDENTIFIERS[role];
  return new Map<string, UndoEntry["kind"]>([
    [table, "nft-table"],
    [demuxTable, "demux-table"],
    [redirectTable, "redirect-table"],
    [logTable, "log-table"],
    [egressTable, "egress-table"],
  ]);
}

async function rulesAndRoutes(role: Role, { exec, journal, signal }: ChangesDeps): Promise<readonly Change[]> {
  const { rules, routes } = await listRulesAndRoutes(exec, IDENTIFIERS[role], signal);
  return [
    ...rules.map((what): Change => ({ kind: "rule", what, lines: [], isJournaled: has(journal, "ip-rules") })),
    ...routes.map((what): Change => ({ kind: "route", what, lines: [], isJournaled: has(journal, "ip-routes") })),
  ];
}

/** A setting bears no name: only the journal knows what it was. */
function settings({ journal }: ChangesDeps): readonly Change[] {
  return journal.entries().flatMap((entry): Change[] => {
    if (entry.kind !== "sysctl") return [];
    const what = `sysctl ${entry.key} = ${entry.ours}`;
    return [{ kind: "setting", what, lines: [`before: ${entry.before}`], isJournaled: true }];
  });
}

const RESOLV_CONF = "/etc/resolv.conf";

async function dns(role: Role, deps: ChangesDeps): Promise<readonly Change[]> {
  if (role !== "client") return [];
  const { exec, journal, signal } = deps;
  const path = deps.resolvConfPath ?? RESOLV_CONF;
  const found: Change[] = [];
  const file = await readIfAllowed(path);
  if (file !== null && file !== "hidden" && isOurs(file.bytes)) {
    const lines = new TextDecoder().decode(file.bytes).split("\n").filter(Boolean);
    const isJournaled = has(journal, "resolv-conf") || (path === RESOLV_CONF && isJournaledByHelper());
    found.push({ kind: "dns", what: path, lines, isJournaled });
  }
  const record = await readRecord({ identifiers: IDENTIFIERS[role] });
  if (record !== null) {
    const what = `resolvconf record ${recordName(IDENTIFIERS[role])}`;
    const lines = record.split("\n").filter(Boolean);
    found.push({ kind: "dns", what, lines, isJournaled: has(journal, "resolvconf-record") || isJournaledByHelper() });
  }
  const link = IDENTIFIERS[role].interface;
  const said = await orMissing(exec.run(["resolvectl", "dns", link], { signal }));
  const servers = /^Link \d+ \([^)]*\):\s*(\S.*)$/m.exec(said?.stdout ?? "")?.[1];
  if (servers !== undefined) {
    const isJournaled = has(journal, "resolved-link");
    found.push({ kind: "dns", what: `systemd-resolved on ${link}`, lines: [servers], isJournaled });
  }
  return found;
}

/** What is in the role's state folder; none where it may not be read. */
export async function stateFiles({ stateDir }: Pick<ChangesDeps, "stateDir">): Promise<readonly Change[]> {
  const names: string[] = await readdir(stateDir).catch(() => []);
  return names
    .toSorted((a, b) => a.localeCompare(b))
    .map((name): Change => ({ kind: "file", what: join(stateDir, name), lines: [], isJournaled: false }));
}

function has(journal: Pick<Journal, "entries">, kind: UndoEntry["kind"]): boolean {
  return journal.entries().some((entry) => entry.kind === kind);
}

/** Null where the tool is not there: then it made nothing. */
async function orMissing(running: Promise<ExecResult>): Promise<ExecResult | null> {
  try {
    return await running;
  } catch (thrown) {
    if (thrown instanceof ToolMissing) return null;
    throw thrown;
  }
}
