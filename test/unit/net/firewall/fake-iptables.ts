// An iptables of one name for both families, which keeps what it was told, prints it, and fails on whatever it does not know.
import { type Exec, type ExecResult, toolMissing } from "../../../../src/net/exec.ts";

/** By table, by chain: rules as iptables-save prints them. */
type Tables = Map<string, Map<string, string[]>>;

const BUILT_IN: Readonly<Record<string, readonly string[]>> = {
  filter: ["INPUT", "FORWARD", "OUTPUT"],
  nat: ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
  mangle: ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
  raw: ["PREROUTING", "OUTPUT"],
};

export class FakeIptables implements Exec {
  readonly families: Readonly<Record<"iptables" | "ip6tables", Tables>> = { iptables: new Map(), ip6tables: new Map() };
  /** What was loaded, one input each, with the command that took it. */
  readonly loaded: string[] = [];
  /** Words of a rule that this kernel has no part for. */
  readonly unknown = new Set<string>();
  /** What happens between a look and a load; a text is what every load then fails with. */
  beforeLoad: (command: string) => string | void = () => undefined;
  readonly #name: string;

  constructor(name: "iptables" | "iptables-legacy" | "iptables-nft" = "iptables") {
    this.#name = name;
  }

  async run(argv: readonly [string, ...string[]], options: { readonly stdin?: string } = {}): Promise<ExecResult> {
    const [command, ...args] = argv;
    const [, six, variant = "", verb] = /^ip(6?)tables(-legacy|-nft)?-(save|restore)$/.exec(command) ?? [];
    if (`iptables${variant}` !== this.#name || verb === undefined) throw toolMissing(command);
    const tables = this.families[six === "6" ? "ip6tables" : "iptables"];
    if (verb === "save" && args.join() === "--version") {
      return done(`${command} v1.8.9 (${this.#name === "iptables-legacy" ? "legacy" : "nf_tables"})\n`);
    }
    if (verb === "save") return done(printed(tables));
    if (args.join(" ") !== "--noflush -w 5") throw new Error(`FakeIptables does not know "${argv.join(" ")}".`);
    this.loaded.push(`${command}\n${options.stdin ?? ""}`);
    const failure = this.beforeLoad(command);
    if (typeof failure === "string") return { code: 4, stdout: "", stderr: failure };
    return this.#load(tables, options.stdin ?? "");
  }

  /** A table is taken whole, or not at all; the ones before it stay. */
  #load(tables: Tables, text: string): ExecResult {
    let name = "";
    let table = new Map<string, string[]>();
    for (const [at, line] of text.split("\n").entries()) {
      const [verb = "", chain = "", ...rest] = line.split(" ");
      const rules = table.get(chain);
      const fails = (why: string): ExecResult => ({
        code: 2,
        stdout: "",
        stderr: `iptables-restore: ${why}\nline ${at + 1} failed: ${line}`,
      });
      if (line === "") continue;
      if ([...this.unknown].some((word) => line.includes(word))) return fails("Couldn't load match");
      if (line.startsWith("*")) {
        name = line.slice(1);
        table = structuredClone(tables.get(name) ?? new Map((BUILT_IN[name] ?? []).map((one) => [one, []])));
      } else if (line === "COMMIT") tables.set(name, table);
      else if (line.startsWith(":")) table.set(verb.slice(1), []);
      else if (rules === undefined) return fails("No chain/target/match by that name.");
      else if (verb === "-A") rules.push(line);
      else if (verb === "-I" && rest[0] === "1") rules.unshift(`-A ${chain} ${rest.slice(1).join(" ")}`);
      else if (verb === "-F") rules.length = 0;
      else if (verb === "-X") {
        const isUsed = [...table.values()].flat().some((rule) => rule.includes(` -j ${chain}`));
        if (isUsed || rules.length > 0) return fails("Device or resource busy.");
        table.delete(chain);
      } else if (verb === "-D") {
        const found = rules.indexOf(`-A ${chain} ${rest.join(" ")}`);
        if (found === -1) return fails("Bad rule (does a matching rule exist in that chain?).");
        rules.splice(found, 1);
      } else throw new Error(`FakeIptables does not know the line "${line}".`);
    }
    return done("");
  }
}

function printed(tables: Tables): string {
  return [...tables]
    .map(([name, chains]) => {
      const heads = [...chains.keys()].map((chain) => `:${chain} ${/^[A-Z]+$/.test(chain) ? "ACCEPT" : "-"} [0:0]`);
      return [`*${name}`, ...heads, ...[...chains.values()].flat(), "COMMIT", ""].join("\n");
    })
    .join("");
}

function done(stdout: string): ExecResult {
  return { code: 0, stdout, stderr: "" };
}
