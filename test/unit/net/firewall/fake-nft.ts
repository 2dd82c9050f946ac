// An nft that keeps what it was told, prints it as text and as nft's JSON, and fails on whatever it does not know.
import type { Exec, ExecResult } from "../../../../src/net/exec.ts";

interface FakeSet {
  type: string;
  flags: string[];
  /** With the words behind the value: `"higgsn0" timeout 30s`. */
  elements: string[];
}

interface FakeTable {
  sets: Map<string, FakeSet>;
  chains: Map<string, { type: string; hook: string; prio: number; policy: string; rules: string[] }>;
}

export class FakeNft implements Exec {
  readonly tables = new Map<string, FakeTable>();
  /** What was loaded, one transaction each. */
  readonly loaded: string[] = [];

  async run(argv: readonly [string, ...string[]], options: { stdin?: string } = {}): Promise<ExecResult> {
    const command = argv.join(" ");
    const words = command.split(" ");
    if (command === "nft -f -") return this.#load(options.stdin ?? "");
    if (/^nft -j list table (inet|netdev) /.test(command)) {
      const table = this.tables.get(words[5] ?? "");
      return table === undefined ? missing : done(JSON.stringify({ nftables: listing(table) }));
    }
    if (/^nft delete table (inet|netdev) /.test(command))
      return this.tables.delete(words[4] ?? "") ? done("") : missing;
    throw new Error(`FakeNft does not know "${command}".`);
  }

  /** The whole state, as nft's own list would have it. */
  printed(): string {
    const lines: string[] = [];
    for (const [name, table] of this.tables) {
      lines.push(`table inet ${name} {`);
      for (const [set, { type, flags, elements }] of table.sets) {
        lines.push(`  set ${set} { type ${[type, ...flags].join(" ")}; ${elements.join(", ")} }`);
      }
      for (const [chain, { type, hook, prio, policy, rules }] of table.chains) {
        lines.push(
          `  chain ${chain} { ${type} ${hook} ${prio} ${policy}`,
          ...rules.map((rule) => `    ${rule}`),
          "  }",
        );
      }
      lines.push("}");
    }
    return lines.join("\n");
  }

  /** All or nothing, as nft does it. */
  #load(text: string): ExecResult {
    const before = structuredClone(this.tables);
    try {
      load(this.tables, text);
      this.loaded.push(text);
      return done("");
    } catch (thrown) {
      this.tables.clear();
      for (const [name, table] of before) this.tables.set(name, table);
      if (thrown instanceof Missing) return missing;
      throw thrown;
    }
  }
}

class Missing extends Error {}

function done(stdout: string): ExecResult {
  return { code: 0, stdout, stderr: "" };
}

const missing: ExecResult = { code: 1, stdout: "", stderr: "Error: No such file or directory\n" };

function load(tables: Map<string, FakeTable>, text: string): void {
  let table: FakeTable | undefined;
  let set: FakeSet | undefined;
  let chain: { type: string; hook: string; prio: number; policy: string; rules: string[] } | undefined;
  for (const line of text.split("\n").map((raw) => raw.trim())) {
    const [first = "", second = "", third = "", fourth = ""] = line.split(" ");
    if (line === "") continue;
    if (line === "}") {
      if (set === undefined && chain === undefined) table = undefined;
      set = undefined;
      chain = undefined;
    } else if (chain !== undefined) {
      const base = /^type (\S+) hook (\S+)(?: device "[^"]+")? priority (-?\d+)$/.exec(line);
      if (base !== null) Object.assign(chain, { type: base[1], hook: base[2], prio: Number(base[3]) });
      else if (first === "policy") chain.policy = second;
      else chain.rules.push(line);
    } else if (set !== undefined) {
      if (first === "type") set.type = second;
      else if (first === "flags") set.flags = second.split(",");
      else if (first === "elements") set.elements = elementsIn(line);
      else throw new Error(`FakeNft does not know "${line}" in a set.`);
    } else if (table !== undefined) {
      if (first === "set") table.sets.set(second, (set = { type: "", flags: [], elements: [] }));
      else if (first === "chain") {
        table.chains.set(second, (chain = { type: "", hook: "", prio: 0, policy: "accept", rules: [] }));
      } else throw new Error(`FakeNft does not know "${line}" in a table.`);
    } else if (first === "add" && second === "table") {
      if (!tables.has(fourth)) tables.set(fourth, { sets: new Map(), chains: new Map() });
    } else if (first === "delete" && second === "table") {
      if (!tables.delete(fourth)) throw new Missing();
    } else if (first === "table") {
      tables.set(third, (table = tables.get(third) ?? { sets: new Map(), chains: new Map() }));
    } else changeSet(tables, line);
  }
}

function changeSet(tables: Map<string, FakeTable>, line: string): void {
  const match = /^(add element|delete element|flush set) inet (\S+) (\S+)/.exec(line);
  if (match === null) throw new Error(`FakeNft does not know "${line}".`);
  const set = tables.get(match[2] ?? "")?.sets.get(match[3] ?? "");
  if (set === undefined) throw new Missing();
  const valueOf = (element: string): string => element.split(" ")[0] ?? "";
  if (match[1] === "flush set") set.elements = [];
  for (const element of match[1] === "flush set" ? [] : elementsIn(line)) {
    const at = set.elements.findIndex((one) => valueOf(one) === valueOf(element));
    if (match[1] === "add element") {
      if (at < 0) set.elements.push(element); // one that is there keeps its timeout, as in nft
    } else if (at < 0) throw new Missing();
    else set.elements.splice(at, 1);
  }
}

function elementsIn(line: string): string[] {
  return (/\{ (.*) \}/.exec(line)?.[1] ?? "").split(", ");
}

function listing(table: FakeTable): unknown[] {
  const items: unknown[] = [{ metainfo: { json_schema_version: 1 } }, { table: { family: "inet" } }];
  for (const [name, { type, flags, elements }] of table.sets) {
    items.push({ set: { name, type, ...(flags.length > 0 ? { flags } : {}), elem: elements.map(elementJson) } });
  }
  for (const [name, { rules: _, ...base }] of table.chains) items.push({ chain: { name, ...base } });
  for (const [chain, { rules }] of table.chains) {
    for (const rule of rules) {
      const comment = /comment "(.*)"$/.exec(rule)?.[1];
      items.push({ rule: { chain, ...(comment === undefined ? {} : { comment }), expr: [] } });
    }
  }
  return items;
}

function elementJson(element: string): unknown {
  const [quoted = "", ...words] = element.split(" ");
  const value = quoted.replaceAll('"', "");
  const [addr, len] = value.split("/");
  const val = len === undefined ? value : { prefix: { addr, len: Number(len) } };
  const seconds = (word: string): number => Number.parseInt(words[words.indexOf(word) + 1] ?? "", 10);
  if (!words.includes("timeout")) return val;
  const timeout = seconds("timeout");
  return { elem: { val, timeout, expires: words.includes("expires") ? seconds("expires") : timeout } };
}
