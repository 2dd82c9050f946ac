// The two keys of a machine, made once and kept in its state folder.
import { fromBase64, toBase64 } from "../base/bytes.ts";
import {
  type IdentityKey,
  type IdentitySecret,
  identityKeyOf,
  newIdentity,
  newWireGuardSecret,
  type WireGuardKey,
  type WireGuardSecret,
  wireGuardKeyOf,
} from "../proto/keys.ts";
import { type StateDir, StateError, type StateFile } from "./state-dir.ts";

export interface MachineKeys {
  readonly identity: IdentitySecret;
  readonly identityKey: IdentityKey;
  readonly wireGuard: WireGuardSecret;
  readonly wireGuardKey: WireGuardKey;
}

/** The same keys on every call; made and synced to disk on the first, so that a retried enrolment is the same machine's. */
export async function machineKeys(dir: StateDir): Promise<MachineKeys> {
  const identity = await keyFile(dir, "identity.key", newIdentity);
  const wireGuardBytes = await keyFile(
    dir,
    "wireguard.key",
    () => fromBase64(newWireGuardSecret()) ?? new Uint8Array(32),
  );
  const wireGuard = toBase64(wireGuardBytes) as WireGuardSecret;
  return {
    identity: identity as IdentitySecret,
    identityKey: identityKeyOf(identity as IdentitySecret),
    wireGuard,
    wireGuardKey: wireGuardKeyOf(wireGuard),
  };
}

async function keyFile(dir: StateDir, file: StateFile, create: () => Uint8Array): Promise<Uint8Array> {
  const found = await dir.readBytes(file);
  if (found === null) {
    const made = create();
    await dir.writeBytes(file, made);
    return made;
  }
  if (found.length !== 32) {
    throw new StateError(`Cannot use ${dir.path}/${file}: it holds ${found.length} bytes, a key has 32.`, {
      code: "state-damaged",
      remedy: "Put it back from a backup, or leave and join again.",
    });
  }
  return found;
}
