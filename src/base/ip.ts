// IP addresses, prefixes and endpoints as canonical branded strings.
import ipaddr from "ipaddr.js";

/** Canonical text: dotted quad, or RFC 5952. An IPv4-mapped IPv6 address is the IPv4 address. */
export type IpAddress = string & { readonly __brand: "IpAddress" };
/** `address/length` with the host bits cleared. */
export type Cidr = string & { readonly __brand: "Cidr" };
export type Family = 4 | 6;

export interface Endpoint {
  readonly address: IpAddress;
  readonly port: number;
}

type Parsed = ipaddr.IPv4 | ipaddr.IPv6;

function parse(text: string): Parsed | null {
  // ipaddr.js takes 1.2.3, 0x7f.1 and octal forms, which other parsers read otherwise: only the plain form is an address.
  if (/^\d{1,3}(\.\d{1,3}){3}$/.test(text)) {
    if (text.split(".").some((part) => part.length > 1 && part.startsWith("0"))) return null;
    return ipaddr.IPv4.isValid(text) ? ipaddr.IPv4.parse(text) : null;
  }
  const colon = text.lastIndexOf(":");
  if (colon < 0 || text.includes("%") || !ipaddr.IPv6.isValid(text)) return null;
  // The dotted end of ::ffff:1.2.3.4 is held to the same form.
  const end = text.slice(colon + 1);
  if (end.includes(".") && parse(end) === null) return null;
  const six = ipaddr.IPv6.parse(text);
  return six.isIPv4MappedAddress() ? six.toIPv4Address() : six;
}

function textOf(parsed: Parsed): IpAddress {
  if (parsed instanceof ipaddr.IPv4) return parsed.toString() as IpAddress;
  return parsed.toRFC5952String() as IpAddress;
}

/** Null for anything but a plain IPv4 or IPv6 address without zone. */
export function parseIp(text: string): IpAddress | null {
  const parsed = parse(text);
  return parsed === null ? null : textOf(parsed);
}

export function familyOf(address: IpAddress | Cidr): Family {
  return address.includes(":") ? 6 : 4;
}

/** 4 or 16 bytes, network order. */
export function ipBytes(address: IpAddress): Uint8Array {
  return Uint8Array.from(ipaddr.parse(address).toByteArray());
}

/** From 4 or 16 bytes; null for another length. */
export function ipFromBytes(bytes: Uint8Array): IpAddress | null {
  if (bytes.length !== 4 && bytes.length !== 16) return null;
  const parsed = ipaddr.fromByteArray([...bytes]);
  if (parsed instanceof ipaddr.IPv6 && parsed.isIPv4MappedAddress()) return textOf(parsed.toIPv4Address());
  return textOf(parsed);
}

/** `10.1.2.3/16` becomes `10.1.0.0/16`; null for anything that is no prefix, or one of IPv4-mapped addresses. */
export function parseCidr(text: string): Cidr | null {
  const match = /^([^/]+)\/(\d{1,3})$/.exec(text);
  if (match === null) return null;
  const address = parse(match[1] ?? "");
  const length = Number(match[2]);
  if (address === null || length > (address.kind() === "ipv4" ? 32 : 128)) return null;
  // The length of ::ffff:10.0.0.0/104 counts bits of IPv6; as a prefix of IPv4 it would mean something else.
  if (address.kind() === "ipv4" && text.includes(":")) return null;
  const bytes = address.toByteArray();
  for (let bit = length; bit < bytes.length * 8; bit++) {
    bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) & ~(0x80 >> (bit & 7));
  }
  return `${textOf(ipaddr.fromByteArray(bytes))}/${length}` as Cidr;
}

/** `/32` or `/128`. */
export function hostCidr(address: IpAddress): Cidr {
  return `${address}/${familyOf(address) === 4 ? 32 : 128}` as Cidr;
}

export function cidrParts(cidr: Cidr): { readonly address: IpAddress; readonly length: number } {
  const slash = cidr.lastIndexOf("/");
  return { address: cidr.slice(0, slash) as IpAddress, length: Number(cidr.slice(slash + 1)) };
}

export function cidrContains(cidr: Cidr, address: IpAddress): boolean {
  if (familyOf(cidr) !== familyOf(address)) return false;
  const { address: base, length } = cidrParts(cidr);
  const a = ipBytes(base);
  const b = ipBytes(address);
  for (let bit = 0; bit < length; bit += 8) {
    const mask = length - bit >= 8 ? 0xff : (0xff00 >> (length - bit)) & 0xff;
    if (((a[bit >> 3] ?? 0) & mask) !== ((b[bit >> 3] ?? 0) & mask)) return false;
  }
  return true;
}

/** True when the two prefixes share an address. */
export function cidrsOverlap(a: Cidr, b: Cidr): boolean {
  return cidrContains(a, cidrParts(b).address) || cidrContains(b, cidrParts(a).address);
}

/** The address `offset` places after the prefix' first. */
export function cidrNth(cidr: Cidr, offset: number): IpAddress {
  const bytes = ipBytes(cidrParts(cidr).address);
  let carry = offset;
  for (let i = bytes.length - 1; i >= 0 && carry > 0; i--) {
    const sum = (bytes[i] ?? 0) + (carry & 0xff);
    bytes[i] = sum & 0xff;
    carry = Math.floor(carry / 0x100) + (sum >> 8);
  }
  return ipFromBytes(bytes) ?? (cidr as string as IpAddress);
}

/** `1.2.3.4:5` or `[2001:db8::1]:5`. */
export function formatEndpoint(endpoint: Endpoint): string {
  return familyOf(endpoint.address) === 4
    ? `${endpoint.address}:${endpoint.port}`
    : `[${endpoint.address}]:${endpoint.port}`;
}

export function parseEndpoint(text: string): Endpoint | null {
  const match = /^(?:\[([^\]]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text);
  const address = parseIp(match?.[1] ?? match?.[2] ?? "");
  const port = Number(match?.[3]);
  return address === null || port < 1 || port > 65535 ? null : { address, port };
}

/** A host name or address with a port, as people write it: `vpn.example:8443`, `[2001:db8::1]`, `203.0.113.10`. */
export interface HostPort {
  readonly host: string;
  readonly port: number;
}

/** Null for what is neither an address nor a DNS name, or whose port is out of range. */
export function parseHostPort(text: string, defaultPort: number): HostPort | null {
  const bare = parseIp(text);
  if (bare !== null) return { host: bare, port: defaultPort };
  const match = /^(?:\[([^\]]+)\]|([^:[\]/\s]+))(?::(\d{1,5}))?$/.exec(text);
  if (match === null) return null;
  const host = match[1] !== undefined ? parseIp(match[1]) : (parseIp(match[2] ?? "") ?? dnsName(match[2] ?? ""));
  const port = match[3] === undefined ? defaultPort : Number(match[3]);
  return host === null || port < 1 || port > 65535 ? null : { host, port };
}

export function formatHostPort(target: HostPort): string {
  return target.host.includes(":") ? `[${target.host}]:${target.port}` : `${target.host}:${target.port}`;
}

function dnsName(text: string): string | null {
  const lower = text.toLowerCase();
  const label = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?";
  if (lower.length > 253 || !new RegExp(`^${label}(?:\\.${label})*$`).test(lower)) return null;
  // What ends in a number is an IPv4 address in some spelling to resolvers (WHATWG URL, "ends in a number").
  return /(?:^|\.)(?:\d+|0x[\da-f]*)$/.test(lower) ? null : lower;
}
