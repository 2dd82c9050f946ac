// Builds the wireguard-go that higgs carries, from the Go module that go.mod and go.sum pin.

import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { buildDir, goModuleVersion, projectDir } from "./project.ts";
import type { Target } from "./targets.ts";
import { patchedSource, patchVersion } from "./wireguard-patch.ts";

const modulePath = "golang.zx2c4.com/wireguard";
/** go.mod's `tool` line is understood from here on. */
const goAtLeast = [1, 24] as const;

export interface BuiltWireguardGo {
  readonly gzPath: string;
  /** Of the unpacked binary. */
  readonly sha256: string;
  readonly version: string;
}

export interface GoTool {
  readonly path: string;
  /** As Go prints it: "go1.26.8". */
  readonly version: string;
}

/** A Go that is new enough, from PATH or from where distributions and go.dev put it; or the reason why there is none. */
export async function findGo(): Promise<GoTool | string> {
  const found: string[] = [];
  for (const path of [Bun.which("go"), "/usr/local/go/bin/go", "/usr/lib/go/bin/go"]) {
    if (path === null || !existsSync(path)) continue;
    const { stdout } = await run([path, "version"]);
    const match = /\b(go(\d+)\.(\d+)\S*)/.exec(stdout);
    if (match === null) continue;
    const [major, minor] = [Number(match[2]), Number(match[3])];
    if (major > goAtLeast[0] || (major === goAtLeast[0] && minor >= goAtLeast[1])) {
      return { path, version: match[1] ?? "" };
    }
    found.push(match[1] ?? "");
  }
  const wanted = `Go ${goAtLeast.join(".")} or newer is not at hand`;
  return found.length === 0 ? wanted : `${wanted} (found ${found.join(", ")})`;
}

/** Makes the pinned modules available. `undefined` when they are, otherwise the reason. A wrong checksum throws. */
export async function downloadModules(go: GoTool): Promise<string | undefined> {
  const { code, stderr } = await run([go.path, "mod", "download"]);
  if (code === 0) return undefined;
  if (/checksum mismatch|SECURITY ERROR|missing go\.sum/.test(stderr))
    throw new Error(`go mod download: ${stderr.trim()}`);
  return `Go cannot fetch the modules: ${stderr.trim().split("\n").at(-1) ?? ""}`;
}

/** Builds for one target, or takes the earlier build of the same version by the same Go. `null`: not for this target. */
export async function buildWireguardGo(target: Target, go: GoTool): Promise<BuiltWireguardGo | null> {
  if (target.go === null) return null;
  const earlier = await readBuilt(target, go);
  if (earlier !== null) return earlier;

  const version = goModuleVersion(modulePath);
  const { dir, gzPath, factsPath } = placesOf(target, version);
  await mkdir(dir, { recursive: true });
  const binaryPath = join(dir, `${target.name}.${String(process.pid)}.tmp`);
  try {
    const listed = await run([go.path, "list", "-m", "-f", "{{.Dir}}", modulePath]);
    if (listed.code !== 0) throw new Error(`go list ${modulePath}: ${listed.stderr.trim()}`);
    // Its own go.mod and go.sum pin what it needs; ours has pinned it.
    const source = await patchedSource(listed.stdout.trim(), join(dir, `source-${patchVersion}-${target.name}`));
    const { code, stderr } = await run(
      [go.path, "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", binaryPath, "."],
      { env: { CGO_ENABLED: "0", GOOS: target.go.os, GOARCH: target.go.arch }, cwd: source },
    );
    if (code !== 0) throw new Error(`go build ${modulePath} for ${target.name}: ${stderr.trim()}`);
    const binary = await readFile(binaryPath);
    const sha256 = createHash("sha256").update(binary).digest("hex");
    // The facts go in last: a build that was broken off is not taken for a finished one.
    await rm(factsPath, { force: true });
    await writeWhole(gzPath, gzipSync(binary, { level: 9 }));
    await writeWhole(factsPath, JSON.stringify({ sha256, go: go.version, patch: patchVersion }));
    return { gzPath, sha256, version };
  } finally {
    await rm(binaryPath, { force: true });
  }
}

/** What an earlier build left, or `null`. With `go`, only if that very Go built it. */
export async function readBuilt(target: Target, go?: GoTool): Promise<BuiltWireguardGo | null> {
  const version = goModuleVersion(modulePath);
  const { gzPath, factsPath } = placesOf(target, version);
  if (!existsSync(gzPath) || !existsSync(factsPath)) return null;
  const facts: unknown = JSON.parse(await readFile(factsPath, "utf8"));
  if (typeof facts !== "object" || facts === null) return null;
  if (!("sha256" in facts) || typeof facts.sha256 !== "string" || !("go" in facts)) return null;
  if (!("patch" in facts) || facts.patch !== patchVersion) return null;
  if (go !== undefined && facts.go !== go.version) return null;
  return { gzPath, sha256: facts.sha256, version };
}

/** The source of the module "higgs:carried-wireguard-go" inside the executable. */
export function carriedModule(built: BuiltWireguardGo | null): string {
  if (built === null) return "export const carried = null;\n";
  const { gzPath, sha256, version } = built;
  return `import gzPath from ${JSON.stringify(gzPath)} with { type: "file" };
export const carried = { gzPath, sha256: ${JSON.stringify(sha256)}, version: ${JSON.stringify(version)} };
`;
}

function placesOf(target: Target, version: string): { dir: string; gzPath: string; factsPath: string } {
  const dir = join(buildDir, "wireguard-go", version);
  return { dir, gzPath: join(dir, `${target.name}.gz`), factsPath: join(dir, `${target.name}.json`) };
}

async function writeWhole(path: string, bytes: Uint8Array | string): Promise<void> {
  const temporary = `${path}.${String(process.pid)}.tmp`;
  await writeFile(temporary, bytes);
  await rename(temporary, path);
}

async function run(argv: string[], options: { readonly env?: Record<string, string>; readonly cwd?: string } = {}) {
  const child = Bun.spawn(argv, {
    cwd: options.cwd ?? projectDir,
    // GOTOOLCHAIN: a Go that is too old says so, and does not fetch another one.
    env: { ...process.env, GOTOOLCHAIN: "local", GOFLAGS: "-mod=readonly", ...options.env },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [stdout, stderr, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { stdout, stderr, code };
}
