// Builds only the wireguard-go binaries that higgs carries, for every target that has one.

import { relative } from "node:path";
import { projectDir } from "./project.ts";
import { targets } from "./targets.ts";
import { buildWireguardGo, downloadModules, findGo } from "./wireguard-go.ts";

const go = await findGo();
if (typeof go === "string") {
  console.error(`Cannot build wireguard-go: ${go}`);
  process.exit(1);
}
const reason = await downloadModules(go);
if (reason !== undefined) {
  console.error(`Cannot build wireguard-go: ${reason}`);
  process.exit(1);
}
for (const target of targets) {
  const built = await buildWireguardGo(target, go);
  if (built === null) continue;
  console.log(`${relative(projectDir, built.gzPath)}: ${built.version}, sha256 ${built.sha256}`);
}
