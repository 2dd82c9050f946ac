// A machine's state folder of its own for a test, and an enrolment to put in it.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Enrolment } from "../../../src/peer/enrolment.ts";
import { openStateDir, type StateDir } from "../../../src/peer/state-dir.ts";
import { NETWORK_KEY } from "../support/keys.ts";
import { machineId, RANGE4, RANGE6, SELF_ADDRESSES, SELF_NAME } from "./machines.ts";

export async function temporaryState(): Promise<{ readonly dir: StateDir } & AsyncDisposable> {
  const path = await mkdtemp(join(tmpdir(), "higgs-state-"));
  return {
    dir: await openStateDir(path),
    [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }),
  };
}

export const sampleEnrolment: Enrolment = {
  version: 1,
  network: NETWORK_KEY,
  id: machineId(1),
  name: SELF_NAME,
  role: "client",
  tags: [],
  ipv4: SELF_ADDRESSES[0],
  ipv6: SELF_ADDRESSES[1],
  range4: RANGE4,
  range6: RANGE6,
  servers: [{ name: "vps.example:443", addresses: [], pin: null }],
  position: { epoch: 3, seq: 4 },
};

/** A folder whose writes of JSON end when the test says so, in the order that it likes. */
export function slowState(dir: StateDir): { readonly slow: StateDir; readonly writes: (() => Promise<void>)[] } {
  const writes: (() => Promise<void>)[] = [];
  const slow: StateDir = {
    ...dir,
    writeJson(file, value) {
      const ended = Promise.withResolvers<void>();
      const text = structuredClone(value);
      writes.push(async () => {
        await dir.writeJson(file, text);
        ended.resolve();
      });
      return ended.promise;
    },
  };
  return { slow, writes };
}
