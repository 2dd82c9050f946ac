// The invite: everything a machine needs to join, as one line that can be pasted.
//
//   higgs://HOST:PORT/#PAYLOAD          HOST:PORT is the first address of the server
//
// PAYLOAD is base64url (RFC 4648 section 5, no padding) of
//   | version u8 = 1 | fields: (type u8, length u16, value)* | check 4 = first bytes of SHA-256 over all before |
//
//   type  field              value
//   1     network            Ed25519 public key, 32 bytes: the pin
//   2     id                 8 ASCII characters
//   3     secret             32 bytes
//   4     role               1 node, 2 client
//   5     name               the machine's name, if the invite fixes it
//   6     tag                one tag; may recur
//   7     address            a further `host:port` of the server; may recur
//
// Fields of unknown type are ignored. The check finds slips of the pen; it is no security.
import { sha256 } from "@noble/hashes/sha2.js";
import { ByteReader, ByteWriter, equalBytes, fromBase64Url, toBase64Url, utf8, utf8Text } from "../base/bytes.ts";
import { HiggsError } from "../base/errors.ts";
import { isMachineName, type MachineName } from "../base/hostname.ts";
import { formatHostPort, type HostPort, parseHostPort } from "../base/ip.ts";
import { tagSchema } from "./api.ts";
import { type IdentityKey, identityKeyBytes, identityKeyFromBytes } from "./keys.ts";
import { type Role, roleCode, roleFromCode } from "./role.ts";

export interface Invite {
  /** At least one; the first stands in the URL. */
  readonly servers: readonly [HostPort, ...HostPort[]];
  readonly network: IdentityKey;
  readonly id: string;
  /** 32 bytes; never logged, never in an error. */
  readonly secret: Uint8Array;
  readonly role: Role;
  readonly name: MachineName | null;
  readonly tags: readonly string[];
}

export class InviteError extends HiggsError {
  override readonly name = "InviteError";
}

export const DEFAULT_PORT = 443;
const VERSION = 1;
const FIELD = { network: 1, id: 2, secret: 3, role: 4, name: 5, tag: 6, address: 7 } as const;

export function formatInvite(invite: Invite): string {
  const writer = new ByteWriter().u8(VERSION);
  const field = (type: number, value: Uint8Array): void => {
    writer.u8(type).u16(value.length).bytes(value);
  };
  field(FIELD.network, identityKeyBytes(invite.network));
  field(FIELD.id, utf8(invite.id));
  field(FIELD.secret, invite.secret);
  field(FIELD.role, Uint8Array.of(roleCode(invite.role)));
  if (invite.name !== null) field(FIELD.name, utf8(invite.name));
  for (const tag of invite.tags) field(FIELD.tag, utf8(tag));
  for (const server of invite.servers.slice(1)) field(FIELD.address, utf8(formatHostPort(server)));
  const body = writer.finish();
  const payload = new ByteWriter().bytes(body).bytes(sha256(body).subarray(0, 4)).finish();
  return `higgs://${formatHostPort(invite.servers[0])}/#${toBase64Url(payload)}`;
}

function mistyped(why: string, cause?: unknown): InviteError {
  return new InviteError(`Cannot read the invite: ${why}.`, {
    code: "invite-mistyped",
    remedy: "Copy the whole line again, from higgs:// to its end, or make a new one with: higgs server invite",
    cause,
  });
}

/** Throws InviteError `invite-mistyped` or `invite-version`; the text itself is never part of the error. */
export function parseInvite(text: string): Invite {
  const match = /^higgs:\/\/([^/#?]+)\/?#(.+)$/.exec(text.trim());
  if (match === null) throw mistyped("it does not look like higgs://HOST:PORT/#…");
  const first = parseHostPort(match[1] ?? "", DEFAULT_PORT);
  if (first === null) throw mistyped("what stands between higgs:// and /# is no host and port");
  const payload = fromBase64Url(match[2] ?? "");
  if (payload === null || payload.length < 5) throw mistyped("the part after # is damaged");
  const body = payload.subarray(0, -4);
  if (!equalBytes(sha256(body).subarray(0, 4), payload.subarray(-4))) {
    throw mistyped("a character is missing or wrong in the part after #");
  }
  if (body[0] !== VERSION) {
    throw new InviteError(`Cannot use the invite: it has version ${body[0]}, this program reads version ${VERSION}.`, {
      code: "invite-version",
      remedy: "Update higgs on this machine.",
    });
  }
  return fieldsOf(body.subarray(1), first);
}

function fieldsOf(bytes: Uint8Array, first: HostPort): Invite {
  const reader = new ByteReader(bytes);
  const found = new Map<number, Uint8Array>();
  const tags: string[] = [];
  const servers: [HostPort, ...HostPort[]] = [first];
  try {
    while (reader.left > 0) {
      const type = reader.u8();
      const value = reader.take(reader.u16());
      if (type === FIELD.tag) {
        const tag = tagSchema.safeParse(utf8Text(value));
        if (!tag.success) throw mistyped("a tag is malformed");
        tags.push(tag.data);
      } else if (type === FIELD.address) {
        const server = parseHostPort(utf8Text(value), DEFAULT_PORT);
        if (server !== null) servers.push(server);
      } else found.set(type, value);
    }
    const network = identityKeyFromBytes(found.get(FIELD.network) ?? new Uint8Array(0));
    const role = roleFromCode(found.get(FIELD.role)?.[0] ?? 0);
    const secret = found.get(FIELD.secret);
    const id = utf8Text(found.get(FIELD.id) ?? new Uint8Array(0));
    const nameBytes = found.get(FIELD.name);
    const name = nameBytes === undefined ? null : utf8Text(nameBytes);
    if (network === null || role === null || secret?.length !== 32 || !/^[A-Za-z0-9_-]{8}$/.test(id)) {
      throw mistyped("a field is missing");
    }
    if (name !== null && !isMachineName(name)) throw mistyped("its name is no host name");
    return { servers, network, id, secret, role, name, tags };
  } catch (thrown) {
    if (thrown instanceof InviteError) throw thrown;
    throw mistyped("a field is damaged", thrown);
  }
}
