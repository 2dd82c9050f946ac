// Machines and sockets for the server's unit tests: whole values with fixed keys, and a socket that remembers what was done to it.
import type { MachineName } from "../../../src/base/hostname.ts";
import type { Cidr, IpAddress } from "../../../src/base/ip.ts";
import type { IdentitySecret, MachineId, WireGuardKey } from "../../../src/proto/keys.ts";
import { identityKeyOf } from "../../../src/proto/keys.ts";
import { type MachineRecord, openRecord, type SignedRecord, signRecord } from "../../../src/proto/record.ts";
import type { Role } from "../../../src/proto/role.ts";
import type { Machine } from "../../../src/server/directory.ts";
import type { Socket } from "../../../src/server/socket.ts";
import { MACHINE_KEY, MACHINE_SECRET, NETWORK_KEY, WIREGUARD_KEY } from "../support/keys.ts";

export function machineId(number: number): MachineId {
  return `00000000-0000-4000-8000-${String(number).padStart(12, "0")}` as MachineId;
}

export function machineOf(number: number, role: Role, change: Partial<Machine> = {}): Machine {
  return {
    id: machineId(number),
    name: `${role}-${number}` as MachineName,
    role,
    tags: [],
    identity: MACHINE_KEY,
    wireGuard: WIREGUARD_KEY,
    ipv4: `10.77.${number >> 8}.${number & 0xff}` as IpAddress,
    ipv6: `fd00::${number.toString(16)}` as IpAddress,
    version: "1",
    platform: "test",
    createdAt: 0,
    lastSeenAt: null,
    record: null,
    ...change,
  };
}

/** A sound record of this machine, signed with its key. */
export function recordFor(
  machine: Machine,
  serial: bigint,
  change: Partial<MachineRecord> = {},
  secret: IdentitySecret = MACHINE_SECRET,
): SignedRecord {
  return signRecord(
    {
      network: NETWORK_KEY,
      identity: identityKeyOf(secret),
      wireGuard: machine.wireGuard,
      role: machine.role,
      serial,
      notAfter: 0n,
      name: machine.name,
      addresses: [machine.ipv4, machine.ipv6],
      routes: machine.role === "node" ? (["0.0.0.0/0", "::/0"] as Cidr[]) : [],
      extensions: [],
      ...change,
    },
    secret,
  );
}

export function withRecord(machine: Machine, serial = 1n): Machine {
  const signed = recordFor(machine, serial);
  return { ...machine, record: { signed, opened: openRecord(signed) } };
}

export const OTHER_NETWORK = MACHINE_KEY;
export const OTHER_WIREGUARD = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=" as WireGuardKey;

/** Reads as fast as it is told to. */
export class FakeSocket implements Socket {
  readonly sent: (string | Uint8Array)[] = [];
  closed: { readonly code: number | undefined; readonly reason: string | undefined } | null = null;
  isCut = false;
  /** What `send` answers with; null for the number of bytes. */
  answer: -1 | 0 | null = null;
  buffered = 0;

  send(data: string | Uint8Array<ArrayBuffer>): number {
    if (this.answer === 0) return 0;
    this.sent.push(data);
    return this.answer ?? data.length;
  }

  close(code?: number, reason?: string): void {
    this.closed ??= { code, reason };
  }

  terminate(): void {
    this.isCut = true;
  }

  getBufferedAmount(): number {
    return this.buffered;
  }

  readonly pings: Uint8Array[] = [];

  ping(payload: Uint8Array<ArrayBuffer>): void {
    this.pings.push(payload);
  }

  /** The text messages, parsed. */
  messages(): Record<string, unknown>[] {
    return this.sent
      .filter((data) => typeof data === "string")
      .map((text) => JSON.parse(text) as Record<string, unknown>);
  }
}
