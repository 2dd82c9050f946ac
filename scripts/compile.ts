// Compiles one executable for one target.

import { mkdir, mkdtemp, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { libsqlNative, libsqlNativePlugin } from "./libsql-native.ts";
import { packageVersion, projectDir } from "./project.ts";
import type { Target } from "./targets.ts";
import { type BuiltWireguardGo, carriedModule } from "./wireguard-go.ts";

export interface Compiled {
  readonly outfile: string;
  readonly bytes: number;
}

/** The file appears whole: one that is running, or being copied, is replaced and never overwritten. */
export async function compile(
  target: Target,
  options: { readonly entry: string; readonly outfile: string; readonly wireguardGo: BuiltWireguardGo | null },
): Promise<Compiled> {
  const nativePath = await libsqlNative(target);
  const { outfile } = options;
  await mkdir(dirname(outfile), { recursive: true });
  // A folder of its own: the executable tells its own file's name in stack traces, and the source map need not stay.
  const temporaryDir = await mkdtemp(join(dirname(outfile), ".building-"));
  try {
    const temporary = join(temporaryDir, target.executable);
    await Bun.build({
      entrypoints: [options.entry],
      root: projectDir,
      target: "bun",
      // Bytecode halves the time to start. Names stay as they are: errors and stack traces are read by people.
      format: "esm",
      bytecode: true,
      // What a role does not import is not read into memory: 3 MiB and 3 ms of each start.
      splitting: true,
      sourcemap: "linked",
      compile: {
        target: target.bun,
        outfile: temporary,
        // higgs runs with privileges, and the folder that it is started in is anybody's.
        autoloadDotenv: false,
        autoloadBunfig: false,
        autoloadTsconfig: false,
        autoloadPackageJson: false,
      },
      define: {
        HIGGS_VERSION: JSON.stringify(packageVersion("package.json")),
        // Packages that look for files beside them find none in the executable; this keeps the builder's paths out of it.
        __dirname: JSON.stringify("/"),
      },
      plugins: [libsqlNativePlugin(nativePath), carriedPlugin(options.wireguardGo)],
    });
    await rename(temporary, outfile);
  } finally {
    await rm(temporaryDir, { recursive: true, force: true });
  }
  return { outfile, bytes: (await stat(outfile)).size };
}

function carriedPlugin(built: BuiltWireguardGo | null): Bun.BunPlugin {
  return {
    name: "carried-wireguard-go",
    setup(build) {
      build.onResolve({ filter: /^higgs:carried-wireguard-go$/ }, ({ path }) => ({ path, namespace: "higgs-carried" }));
      build.onLoad({ filter: /.*/, namespace: "higgs-carried" }, () => ({
        contents: carriedModule(built),
        loader: "js",
      }));
    },
  };
}
