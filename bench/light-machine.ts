// A machine reduced to what it says to the server: enrolment, a token, a control stream and a relay connection, in few kilobytes.
import { fromBase64Url, toBase64Url } from "../src/base/bytes.ts";
import type { Cidr } from "../src/base/ip.ts";
import { pinnedTls, type ServerPin } from "../src/net/tls.ts";
import {
  API_BASE,
  challengeResponseSchema,
  type RegisterResponse,
  registerResponseSchema,
  tokenResponseSchema,
} from "../src/proto/api.ts";
import { type Invite, parseInvite } from "../src/proto/invite.ts";
import {
  identityKeyOf,
  type IdentitySecret,
  newIdentity,
  newWireGuardSecret,
  sign,
  wireGuardKeyOf,
  type WireGuardKey,
} from "../src/proto/keys.ts";
import { enrolmentMessage, machineProofMessage } from "../src/proto/proof.ts";
import { type SignedRecord, signRecord } from "../src/proto/record.ts";

export interface ServerPlace {
  readonly port: number;
  readonly pin: ServerPin;
}

export interface LightMachine {
  readonly place: ServerPlace;
  /** The address that it says it comes from. */
  readonly address: string;
  readonly enrolment: RegisterResponse;
  readonly identity: IdentitySecret;
  readonly wireGuard: WireGuardKey;
  readonly token: string;
}

/** `n` makes its address. */
export async function lightMachine(place: ServerPlace, inviteText: string, n: number): Promise<LightMachine> {
  const invite = parseInvite(inviteText);
  const address = `10.${(n >>> 16) & 255}.${(n >>> 8) & 255}.${n & 255}`;
  const identity = newIdentity();
  const wireGuard = wireGuardKeyOf(newWireGuardSecret());
  const body = registration(invite, { place, identity, wireGuard, name: `m${n}` });
  const enrolment = registerResponseSchema.parse(
    await post(place, address, { path: `/${invite.role}s/register`, body }),
  );
  const { id, network } = enrolment;
  const asked = await post(place, address, { path: "/auth/challenge", body: { machine: id } });
  const { challenge, bootId } = challengeResponseSchema.parse(asked);
  const proof = machineProofMessage({
    challenge: fromBase64Url(challenge) ?? new Uint8Array(),
    bootId: fromBase64Url(bootId) ?? new Uint8Array(),
    machine: id,
    network,
    spki: place.pin.spki,
  });
  const signature = sign("higgs machine proof v1", proof, identity);
  const given = await post(place, address, { path: "/auth/token", body: { machine: id, challenge, signature } });
  return { place, address, enrolment, identity, wireGuard, token: tokenResponseSchema.parse(given).token };
}

function registration(
  invite: Invite,
  who: {
    readonly place: ServerPlace;
    readonly identity: IdentitySecret;
    readonly wireGuard: WireGuardKey;
    readonly name: string;
  },
): unknown {
  const identity = identityKeyOf(who.identity);
  const { wireGuard } = who;
  const message = enrolmentMessage({
    network: invite.network,
    spki: who.place.pin.spki,
    inviteId: invite.id,
    role: invite.role,
    identity,
    wireGuard,
  });
  return {
    inviteId: invite.id,
    secret: toBase64Url(invite.secret),
    name: who.name,
    nameIsChosen: false,
    identity,
    wireGuard,
    signature: sign("higgs enrolment v1", message, who.identity),
    version: "0.0.0-bench",
    platform: "bench",
  };
}

async function post(place: ServerPlace, address: string, request: { path: string; body: unknown }): Promise<unknown> {
  const response = await fetch(`https://127.0.0.1:${place.port}${API_BASE}${request.path}`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-forwarded-for": address },
    body: JSON.stringify(request.body),
    tls: pinnedTls(place.pin, "127.0.0.1"),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`Cannot enrol a machine: ${response.status} ${text}`);
  return JSON.parse(text) as unknown;
}

/** Resolves when it is open. */
export function lightSocket(machine: LightMachine, path: "control" | "relay"): Promise<WebSocket> {
  const { place, token, address } = machine;
  const socket = new WebSocket(`wss://127.0.0.1:${place.port}${API_BASE}/${path}`, {
    headers: { authorization: `Bearer ${token}`, "x-forwarded-for": address },
    tls: pinnedTls(place.pin, "127.0.0.1"),
    perMessageDeflate: false,
  });
  socket.binaryType = "nodebuffer";
  return new Promise((resolve, reject) => {
    socket.onopen = () => resolve(socket);
    socket.onclose = (event) => reject(new Error(`Cannot open ${path}: ${event.code} ${event.reason}`));
  });
}

export function lightRecord(machine: LightMachine): SignedRecord {
  const { enrolment, identity, wireGuard } = machine;
  const { network, role, name, ipv4, ipv6 } = enrolment;
  return signRecord(
    {
      network,
      identity: identityKeyOf(identity),
      wireGuard,
      role,
      serial: 1n,
      notAfter: 0n,
      name,
      addresses: [ipv4, ipv6],
      routes: role === "node" ? (["0.0.0.0/0", "::/0"] as Cidr[]) : [],
      extensions: [],
    },
    identity,
  );
}
