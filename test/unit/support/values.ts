// Random but valid values of the project's own types.
import fc from "fast-check";
import type { MachineName } from "../../../src/base/hostname.ts";
import {
  type Cidr,
  type Endpoint,
  type HostPort,
  type IpAddress,
  ipFromBytes,
  parseCidr,
  parseIp,
} from "../../../src/base/ip.ts";

function sound<T>(value: T | null): T {
  if (value === null) throw new Error("Cannot make a test value: the generator is wrong.");
  return value;
}

export const anyIp: fc.Arbitrary<IpAddress> = fc
  .oneof(
    fc.uint8Array({ minLength: 4, maxLength: 4 }),
    fc.uint8Array({ minLength: 16, maxLength: 16 }),
    // Runs of zeros are what RFC 5952 shortens.
    fc
      .tuple(fc.nat(16), fc.nat(16), fc.uint8Array({ minLength: 16, maxLength: 16 }))
      .map(([a, b, bytes]) => bytes.fill(0, Math.min(a, b), Math.max(a, b))),
  )
  .map((bytes) => sound(ipFromBytes(bytes)));

export const anyCidr: fc.Arbitrary<Cidr> = fc
  .tuple(anyIp, fc.nat(128))
  .map(([address, length]) => sound(parseCidr(`${address}/${address.includes(":") ? length : length % 33}`)));

export const anyPort = fc.integer({ min: 1, max: 65_535 });

export const anyEndpoint: fc.Arbitrary<Endpoint> = fc.record(
  { address: anyIp, port: anyPort },
  { noNullPrototype: true },
);

const alphanumeric = "abcdefghijklmnopqrstuvwxyz0123456789".split("");

export const anyName: fc.Arbitrary<MachineName> = fc
  .tuple(
    fc.constantFrom(...alphanumeric),
    fc.string({ unit: fc.constantFrom(...alphanumeric, "-"), maxLength: 61 }),
    fc.constantFrom(...alphanumeric),
  )
  .map((parts) => parts.join("") as MachineName);

export const anyHostPort: fc.Arbitrary<HostPort> = fc.record(
  {
    host: fc.oneof(
      anyIp.map((address) => sound(parseIp(address)) as string),
      fc.constantFrom("vpn.example", "localhost", "a.b.c.example", "xn--bcher-kva.example"),
    ),
    port: anyPort,
  },
  { noNullPrototype: true },
);

export const anyTag = fc.stringMatching(/^[a-z0-9][a-z0-9-]{0,31}$/);
export const anyU64 = fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn });
/** Text without lone surrogates, which UTF-8 cannot carry. */
export const anyText = fc.string({ unit: "grapheme", maxLength: 40 });
