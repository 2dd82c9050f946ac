// Answers that lead into a private network: a public name must not, or a web page could make a browser talk to the machines beside it.
import { type Cidr, cidrContains, familyOf, type IpAddress, ipFromBytes } from "../base/ip.ts";
import { DENIED4, DENIED6 } from "../net/firewall/exit.ts";
import { type Message, TYPE, u16, type WireRecord } from "./dns-message.ts";

/** RFC 9460 section 14.3.2: the addresses that an HTTPS record hints at. */
const HINT4 = 4;
const HINT6 = 6;

/** True when a record of the answer holds an address that no public name should have. */
export function leadsInside(message: Message, bytes: Uint8Array): boolean {
  return message.records.some((record) => addressesOf(record, bytes).some(isPrivate));
}

function addressesOf(record: WireRecord, bytes: Uint8Array): readonly IpAddress[] {
  const data = bytes.subarray(record.dataAt, record.dataAt + record.length);
  if (record.type === TYPE.a) return split(data, 4);
  if (record.type === TYPE.aaaa) return split(data, 16);
  if (record.type === TYPE.svcb || record.type === TYPE.https) return hints(data);
  return [];
}

/** priority u16, target: name without pointers, (key u16, length u16, value)*: RFC 9460 section 2.2. */
function hints(data: Uint8Array): readonly IpAddress[] {
  let at = 2;
  while (at < data.length && data[at] !== 0) at += 1 + (data[at] ?? 0);
  at += 1;
  const found: IpAddress[] = [];
  while (at + 4 <= data.length) {
    const key = u16(data, at);
    const length = u16(data, at + 2);
    const value = data.subarray(at + 4, at + 4 + length);
    if (key === HINT4) found.push(...split(value, 4));
    if (key === HINT6) found.push(...split(value, 16));
    at += 4 + length;
  }
  return found;
}

function split(data: Uint8Array, size: number): readonly IpAddress[] {
  const found: IpAddress[] = [];
  for (let at = 0; at + size <= data.length; at += size) {
    const address = ipFromBytes(data.subarray(at, at + size));
    if (address !== null) found.push(address);
  }
  return found;
}

function isPrivate(address: IpAddress): boolean {
  const ranges: readonly Cidr[] = familyOf(address) === 4 ? DENIED4 : DENIED6;
  return ranges.some((range) => cidrContains(range, address));
}

/** True for the domain itself and every name below it. */
export function isWithin(name: string, domains: ReadonlySet<string>): boolean {
  for (let rest = name; ; ) {
    if (domains.has(rest)) return true;
    const dot = rest.indexOf(".");
    if (dot < 0) return false;
    rest = rest.slice(dot + 1);
  }
}
