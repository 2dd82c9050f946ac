// The byte strings that are signed when a server, a machine or a newcomer proves who it is.
//
// Server proof (by the network's identity)     | nonce 32 | SPKI hash 32 | count u8 | (length u16, name)* |
// Machine proof (by the machine's identity)    | challenge 32 | boot id 16 | machine id 36 | network 32 | SPKI hash 32 |
// Enrolment (by the newcomer's identity)       | network 32 | SPKI hash 32 | invite id: length u8, text | role u8 | identity 32 | WireGuard 32 |
import { ByteWriter, fromBase64, fromBase64Url, utf8 } from "../base/bytes.ts";
import { type IdentityKey, identityKeyBytes, type MachineId, type SpkiHash, type WireGuardKey } from "./keys.ts";
import { type Role, roleCode } from "./role.ts";

function hashBytes(hash: SpkiHash): Uint8Array {
  return fromBase64Url(hash) ?? new Uint8Array(32);
}

/** `nonce`: the 32 bytes that the asking machine drew. `names`: `host:port` of this server, as it may be reached. */
export function serverProofMessage(proof: {
  readonly nonce: Uint8Array;
  readonly spki: SpkiHash;
  readonly names: readonly string[];
}): Uint8Array {
  const writer = new ByteWriter().bytes(proof.nonce).bytes(hashBytes(proof.spki)).u8(proof.names.length);
  for (const name of proof.names) {
    const bytes = utf8(name);
    writer.u16(bytes.length).bytes(bytes);
  }
  return writer.finish();
}

export function machineProofMessage(proof: {
  readonly challenge: Uint8Array;
  readonly bootId: Uint8Array;
  readonly machine: MachineId;
  readonly network: IdentityKey;
  readonly spki: SpkiHash;
}): Uint8Array {
  return new ByteWriter()
    .bytes(proof.challenge)
    .bytes(proof.bootId)
    .bytes(utf8(proof.machine))
    .bytes(identityKeyBytes(proof.network))
    .bytes(hashBytes(proof.spki))
    .finish();
}

export function enrolmentMessage(proof: {
  readonly network: IdentityKey;
  readonly spki: SpkiHash;
  readonly inviteId: string;
  readonly role: Role;
  readonly identity: IdentityKey;
  readonly wireGuard: WireGuardKey;
}): Uint8Array {
  const id = utf8(proof.inviteId);
  return new ByteWriter()
    .bytes(identityKeyBytes(proof.network))
    .bytes(hashBytes(proof.spki))
    .u8(id.length)
    .bytes(id)
    .u8(roleCode(proof.role))
    .bytes(identityKeyBytes(proof.identity))
    .bytes(fromBase64(proof.wireGuard) ?? new Uint8Array(32))
    .finish();
}
