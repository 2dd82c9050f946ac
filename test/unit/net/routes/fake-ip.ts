// An `ip` that keeps rules and routes as the lines it was given, prints them as text and as JSON, and fails on anything else.
import type { Exec, ExecResult } from "../../../../src/net/exec.ts";

interface FakeFamily {
  rules: string[];
  routes: string[];
}

export class FakeIp implements Exec {
  readonly families: Record<4 | 6, FakeFamily> = { 4: { rules: [], routes: [] }, 6: { rules: [], routes: [] } };
  /** Every line of every batch, as it was run. */
  readonly done: string[] = [];
  /** What the kernel lacks. */
  readonly without: { ipv6?: boolean; ipv6OnDevice?: boolean } = {};
  /** What happens between the lists and a batch; a text is what every batch then fails with. */
  beforeBatch: (family: 4 | 6) => string | void = () => undefined;

  async run(argv: readonly [string, ...string[]], options: { stdin?: string } = {}): Promise<ExecResult> {
    const command = argv.join(" ");
    const known = /^ip (?:-N -j )?-([46]) (rule show|route show table 5270|-batch -)$/.exec(command);
    if (known === null) throw new Error(`FakeIp does not know "${command}".`);
    const family = known[1] === "4" ? 4 : 6;
    if (family === 6 && this.without.ipv6 === true)
      return failed("RTNETLINK answers: Address family not supported by protocol");
    const { rules, routes } = this.families[family];
    if (known[2] === "rule show") return listed([...rules].sort(byPref).map(ruleJson));
    if (known[2] === "-batch -") return this.#batch(options.stdin ?? "", family);
    if (routes.length === 0) return failed(`Error: ipv${family}: FIB table does not exist.\nDump terminated`);
    return listed(routes.map(routeJson));
  }

  /** The whole state, sorted by family and preference. */
  printed(): string {
    const lines: string[] = [];
    for (const family of [4, 6] as const) {
      const { rules, routes } = this.families[family];
      lines.push(...[...rules].sort(byPref).map((rule) => `-${family} rule ${rule}`));
      lines.push(...routes.map((route) => `-${family} route ${route}`));
    }
    return lines.join("\n");
  }

  /** Stops at the first line that fails, as `ip` does. */
  #batch(stdin: string, family: 4 | 6): ExecResult {
    const failure = this.beforeBatch(family);
    if (typeof failure === "string") return failed(failure);
    for (const line of stdin.split("\n").filter((text) => text !== "")) {
      const known = /^(rule|route) (add|del|replace) (.*)$/.exec(line);
      if (known === null) throw new Error(`FakeIp does not know "${line}".`);
      const [, what, verb, rest = ""] = known;
      const text = what === "rule" ? rest : rest.replace(/ table 5270$/, "");
      if (family === 6 && this.without.ipv6OnDevice === true && text.includes(" dev ")) {
        return failed("Error: IPv6 is disabled on nexthop device.\nCommand failed -:1");
      }
      const list = what === "rule" ? this.families[family].rules : this.families[family].routes;
      const like = (route: string): string => route.replace(/ mtu \d+$/, "");
      const at = verb === "replace" ? list.findIndex((one) => like(one) === like(text)) : list.indexOf(text);
      if (verb === "add" ? at >= 0 : at < 0)
        return failed(`RTNETLINK answers: ${verb === "add" ? "File exists" : "No such process"}`);
      if (verb === "add") list.push(text);
      else if (verb === "replace") list[at] = text;
      else list.splice(at, 1);
      this.done.push(`-${family} ${line}`);
    }
    return { code: 0, stdout: "", stderr: "" };
  }
}

function byPref(a: string, b: string): number {
  return Number(/pref (\d+)/.exec(a)?.[1]) - Number(/pref (\d+)/.exec(b)?.[1]);
}

function failed(stderr: string): ExecResult {
  return { code: 2, stdout: "[", stderr };
}

function listed(items: readonly unknown[]): ExecResult {
  return { code: 0, stdout: JSON.stringify(items), stderr: "" };
}

function ruleJson(line: string): unknown {
  const words = line.split(" ");
  const after = (word: string): string | undefined =>
    words.includes(word) ? words[words.indexOf(word) + 1] : undefined;
  const [fwmark, fwmask] = after("fwmark")?.split("/") ?? [];
  const [start, end] = after("uidrange")?.split("-") ?? [];
  const port = (word: string): number | undefined => (after(word) === undefined ? undefined : Number(after(word)));
  return {
    priority: Number(after("pref")),
    src: "all",
    dst: after("to"),
    fwmark,
    fwmask,
    iif: after("iif"),
    ...(start === undefined ? {} : { uid_start: Number(start), uid_end: Number(end) }),
    ipproto: after("ipproto") === undefined ? undefined : `ipproto-${after("ipproto")}`,
    sport: port("sport"),
    dport: port("dport"),
    ...(words.includes("unreachable")
      ? { action: "7" }
      : { table: after("lookup") === "main" ? "254" : after("lookup") }),
  };
}

function routeJson(line: string): unknown {
  const words = line.split(" ");
  const type = { unreachable: "7", throw: "9" }[words[0] ?? ""];
  const metric = words.includes("metric") ? Number(words[words.indexOf("metric") + 1]) : undefined;
  const dev = words.includes("dev") ? words[words.indexOf("dev") + 1] : undefined;
  const mtu = words.includes("mtu") ? { metrics: [{ mtu: Number(words[words.indexOf("mtu") + 1]) }] } : {};
  return {
    ...(type === undefined ? {} : { type }),
    dst: words[type === undefined ? 0 : 1],
    dev,
    metric,
    ...mtu,
    flags: [],
  };
}
