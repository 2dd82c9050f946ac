// Builds dist/higgs for this machine, or with --target for others into dist/<target>/.

import { join, relative } from "node:path";
import { parseArgs } from "node:util";
import { compile } from "./compile.ts";
import { distDir, projectDir } from "./project.ts";
import { hostTarget, type Target, targets } from "./targets.ts";
import { buildWireguardGo, downloadModules, findGo, type GoTool } from "./wireguard-go.ts";

const { values } = parseArgs({ options: { target: { type: "string", multiple: true, short: "t" } }, strict: true });

const host = hostTarget();
const names = (values.target ?? []).flatMap((list) => list.split(","));
const wanted = chooseTargets(names);
const go = await usableGo();

for (const target of wanted) {
  const started = performance.now();
  const wireguardGo = go === null ? null : await buildWireguardGo(target, go);
  const forHost = names.length === 0;
  const outfile = forHost ? join(distDir, target.executable) : join(distDir, target.name, target.executable);
  const { bytes } = await compile(target, { entry: join(projectDir, "src/cli/main.ts"), outfile, wireguardGo });
  const carries = wireguardGo === null ? "without wireguard-go" : `wireguard-go ${wireguardGo.version}`;
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.log(
    `${relative(projectDir, outfile)}: ${target.name}, ${(bytes / 1e6).toFixed(0)} MB, ${carries}, ${seconds} s`,
  );
}

function chooseTargets(asked: readonly string[]): readonly Target[] {
  if (asked.length === 0) {
    if (host !== undefined) return [host];
    return refuse(`Cannot build for this machine: ${process.platform}-${process.arch} is not among the targets`);
  }
  if (asked.includes("all")) return targets;
  return asked.map((name) => {
    const known = targets.find((target) => target.name === name);
    return known ?? refuse(`Cannot build for "${name}": the targets are ${targets.map((t) => t.name).join(", ")}, all`);
  });
}

/** A Go with the pinned modules at hand. Without one the executable is built all the same, and knows that it carries nothing. */
async function usableGo(): Promise<GoTool | null> {
  const found = await findGo();
  const reason = typeof found === "string" ? found : await downloadModules(found);
  if (typeof found !== "string" && reason === undefined) return found;
  console.warn(
    `warning: wireguard-go is left out: ${reason ?? ""}. higgs will use the kernel's WireGuard or a wireguard-go on PATH.`,
  );
  return null;
}

function refuse(text: string): never {
  console.error(text);
  process.exit(2);
}
