import { expect, test } from "bun:test";
import { silentLogger } from "../../../src/base/log.ts";
import { Mender, type MendWhat } from "../../../src/peer/mender.ts";

test("Mender mends once for all that happens meanwhile, the whole of it where one event asks for that, and goes on after a failure", async () => {
  const mended: MendWhat[] = [];
  const steps: PromiseWithResolvers<void>[] = [];
  const controller = new AbortController();
  const mend = (what: MendWhat): Promise<void> => {
    mended.push(what);
    const step = Promise.withResolvers<void>();
    steps.push(step);
    return step.promise;
  };
  const mender = new Mender({ mend, log: silentLogger, signal: controller.signal });
  mender.poke("rules");
  for (const what of ["rules", "all", "rules", "rules"] as const) mender.poke(what);
  expect(mended).toEqual(["rules"]);
  steps[0]?.reject(new Error("nft is busy"));
  await Bun.sleep(0);
  expect(mended).toEqual(["rules", "all"]);
  steps[1]?.resolve();
  await Bun.sleep(0);
  expect(mended).toHaveLength(2);
  mender.poke("rules");
  expect(mended).toHaveLength(3);
  mender.poke("all");
  controller.abort();
  steps[2]?.resolve();
  await Bun.sleep(0);
  expect(mended).toHaveLength(3);
});
