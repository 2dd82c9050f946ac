// The network that this server serves: its identity, the ranges its machines get their addresses from, and the epoch of this start.
import { eq } from "drizzle-orm";
import { HiggsError } from "../base/errors.ts";
import { type Cidr, cidrNth, cidrParts, familyOf, type IpAddress, ipFromBytes, parseCidr } from "../base/ip.ts";
import { type IdentityKey, type IdentitySecret, identityKeyOf } from "../proto/keys.ts";
import { isNetworkRange, PRIVATE4, WIDEST4 } from "../proto/network-range.ts";
import type { Database, Queries } from "./db/open.ts";
import { network } from "./db/schema.ts";

export class NetworkError extends HiggsError {
  override readonly name = "NetworkError";
}

export interface Network {
  readonly identity: IdentityKey;
  readonly range4: Cidr;
  readonly range6: Cidr;
  /** Greater than that of every start before, whatever the clock says. */
  readonly epoch: number;
}

/** 254 machines. */
const NARROWEST4 = 24;

/** A random /16 out of 10.64.0.0/10, away from the low numbers that home routers and clouds take. */
export function randomRange4(random: Uint8Array = crypto.getRandomValues(new Uint8Array(1))): Cidr {
  return `10.${64 + ((random[0] ?? 0) & 63)}.0.0/16` as Cidr;
}

/** A random /48 of fd00::/8 (RFC 4193). */
export function randomRange6(random: Uint8Array = crypto.getRandomValues(new Uint8Array(5))): Cidr {
  const bytes = new Uint8Array(16);
  bytes[0] = 0xfd;
  bytes.set(random.subarray(0, 5), 1);
  return `${ipFromBytes(bytes) ?? "fd00::"}/48` as Cidr;
}

/** Throws NetworkError `network-range` for what cannot be the range of a network. */
export function parseNetworkRange(text: string): Cidr {
  const range = parseCidr(text);
  if (range === null || familyOf(range) !== 4 || !isNetworkRange(range) || cidrParts(range).length > NARROWEST4) {
    throw new NetworkError(`Cannot use "${text}" as the network's range.`, {
      code: "network-range",
      remedy: `Name a prefix between /${WIDEST4} and /${NARROWEST4} in ${PRIVATE4.join(", ")}, such as --network-range 10.99.0.0/16`,
    });
  }
  return range;
}

export interface Addresses {
  readonly ipv4: IpAddress;
  readonly ipv6: IpAddress;
}

/** Machine number `host`, from 1, has the `host`th address of both ranges for life. Throws NetworkError `range-full`. */
export function addressesOf(host: number, ranges: { readonly range4: Cidr; readonly range6: Cidr }): Addresses {
  // The last address of the IPv4 range is its broadcast address to other software.
  if (host > 2 ** (32 - cidrParts(ranges.range4).length) - 2) {
    throw new NetworkError(`Cannot enrol another machine: the network's range ${ranges.range4} is used up.`, {
      code: "range-full",
      remedy: "Set up a new network with a larger --network-range.",
    });
  }
  return { ipv4: cidrNth(ranges.range4, host), ipv6: cidrNth(ranges.range6, host) };
}

/** Makes the network's one row if it is not there yet. */
export async function createNetwork(
  database: Database,
  options: { readonly identity: IdentityKey; readonly range4: Cidr | null },
): Promise<void> {
  await database.write(async (queries) => {
    await queries
      .insert(network)
      .values({
        id: 1,
        identity: options.identity,
        range4: options.range4 ?? randomRange4(),
        range6: randomRange6(),
        nextHost: 1,
        epoch: 0,
        createdAt: Date.now(),
      })
      .onConflictDoNothing();
  });
}

/** Throws NetworkError `network-missing`, or `identity-mismatch` when the database is that of another identity. */
export async function startNetwork(database: Database, secret: IdentitySecret): Promise<Network> {
  const identity = identityKeyOf(secret);
  return database.write(async (queries) => {
    const row = await rowOf(queries, identity, database.path);
    const epoch = Math.max(row.epoch + 1, Date.now());
    await queries.update(network).set({ epoch }).where(eq(network.id, 1));
    return { identity, range4: row.range4, range6: row.range6, epoch };
  });
}

/** For `openDatabase`: refuses, as startNetwork does, a database that another identity's server made. One without a network passes. */
export function belongsTo(identity: IdentityKey): (queries: Queries, path: string) => Promise<void> {
  return async (queries, path) => {
    const row = await queries.select({ identity: network.identity }).from(network).where(eq(network.id, 1)).get();
    if (row !== undefined && row.identity !== identity) throw identityMismatch(path);
  };
}

async function rowOf(queries: Queries, identity: IdentityKey, path: string): Promise<typeof network.$inferSelect> {
  const row = await networkRow(queries);
  if (row.identity === identity) return row;
  throw identityMismatch(path);
}

function identityMismatch(path: string): NetworkError {
  return new NetworkError(`Cannot use the database "${path}": it belongs to another identity than network.key.`, {
    code: "identity-mismatch",
    remedy: "Put the network.key and the database of the same server together, from one backup.",
  });
}

export async function networkRow(queries: Queries): Promise<typeof network.$inferSelect> {
  const row = await queries.select().from(network).where(eq(network.id, 1)).get();
  if (row === undefined) {
    throw new NetworkError("Cannot start: the database holds no network.", {
      code: "network-missing",
      remedy: "Restore a backup: sudo higgs server restore FILE",
    });
  }
  return row;
}
