// Gives a program or a test that runs from source what the build puts into the executable.

import { packageVersion } from "./project.ts";
import { hostTarget } from "./targets.ts";
import { readBuilt } from "./wireguard-go.ts";

Object.assign(globalThis, { HIGGS_VERSION: packageVersion("package.json") });

Bun.plugin({
  name: "carried-wireguard-go",
  setup(build) {
    build.module("higgs:carried-wireguard-go", async () => {
      const target = hostTarget();
      return { loader: "object", exports: { carried: target === undefined ? null : await readBuilt(target) } };
    });
  },
});
