// Machines of a made-up network: their keys, records and addresses, and what a machine among them would judge by.
import type { MachineName } from "../../../src/base/hostname.ts";
import { type Cidr, cidrNth, type IpAddress } from "../../../src/base/ip.ts";
import type { KnownPeer } from "../../../src/peer/netmap.ts";
import { judge, type TrustContext, type TrustedMachine } from "../../../src/peer/trust.ts";
import type { ExitState, Peer } from "../../../src/proto/control.ts";
import {
  type IdentitySecret,
  identityKeyOf,
  type MachineId,
  newIdentity,
  newWireGuardSecret,
  type WireGuardKey,
  wireGuardKeyOf,
} from "../../../src/proto/keys.ts";
import { type MachineRecord, type SignedRecord, signRecord } from "../../../src/proto/record.ts";
import { MACHINE_KEY, NETWORK_KEY, WIREGUARD_KEY } from "../support/keys.ts";

export const RANGE4 = "10.77.0.0/16" as Cidr;
export const RANGE6 = "fd00:77::/48" as Cidr;
export const ALL4 = "0.0.0.0/0" as Cidr;
export const ALL6 = "::/0" as Cidr;
export const SELF_NAME = "laptop" as MachineName;
export const SELF_ADDRESSES = [cidrNth(RANGE4, 1), cidrNth(RANGE6, 1)] as const;
export const READY: ExitState = { ready: true, ipv6: true, missing: [] };

export const context: TrustContext = {
  network: NETWORK_KEY,
  range4: RANGE4,
  range6: RANGE6,
  self: { identity: MACHINE_KEY, wireGuard: WIREGUARD_KEY, name: SELF_NAME, addresses: SELF_ADDRESSES },
  now: 1_000n,
};

export interface Somebody {
  readonly id: MachineId;
  readonly identity: IdentitySecret;
  readonly wireGuard: WireGuardKey;
  readonly name: MachineName;
  readonly addresses: readonly [IpAddress, IpAddress];
}

/** `host`: the number of its addresses in both ranges. */
export function somebody(name: string, host: number): Somebody {
  return {
    id: machineId(host),
    identity: newIdentity(),
    wireGuard: wireGuardKeyOf(newWireGuardSecret()),
    name: name as MachineName,
    addresses: [cidrNth(RANGE4, host), cidrNth(RANGE6, host)],
  };
}

export function machineId(host: number): MachineId {
  return `00000000-0000-4000-8000-${String(host).padStart(12, "0")}` as MachineId;
}

/** A node's record, an exit to both families, serial 1. */
export function recordOf(who: Somebody, change: Partial<MachineRecord> = {}): MachineRecord {
  return {
    network: NETWORK_KEY,
    identity: identityKeyOf(who.identity),
    wireGuard: who.wireGuard,
    role: "node",
    serial: 1n,
    notAfter: 0n,
    name: who.name,
    addresses: who.addresses,
    routes: [ALL4, ALL6],
    extensions: [],
    ...change,
  };
}

export function signedBy(who: Somebody, change: Partial<MachineRecord> = {}): SignedRecord {
  return signRecord(recordOf(who, change), who.identity);
}

/** As a server shows it: online, with its exit ready. */
export function peerOf(who: Somebody, change: Partial<MachineRecord> = {}, shown: Partial<Peer> = {}): Peer {
  return {
    id: who.id,
    tags: [],
    online: true,
    exit: READY,
    publicAddress: null,
    record: signedBy(who, change),
    ...shown,
  };
}

/** What is remembered of a machine after its record was judged. */
export function remembered(who: Somebody, change: Partial<MachineRecord> = {}): TrustedMachine {
  const judgement = judge(recordOf(who, change), [], context);
  if (judgement.kind !== "learned") throw new Error(`the sample was not learned: ${judgement.kind}`);
  return judgement.machine;
}

export function knownPeer(
  who: Somebody,
  shown: Partial<KnownPeer> = {},
  change: Partial<MachineRecord> = {},
): KnownPeer {
  return {
    id: who.id,
    name: who.name,
    machine: remembered(who, change),
    tags: [],
    online: true,
    exit: READY,
    publicAddress: null,
    ...shown,
  };
}
