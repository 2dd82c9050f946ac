// The text that higgs writes into /etc/resolv.conf, and how it is recognised again.
import { createHash } from "node:crypto";
import { searchDomainsOf } from "./domains.ts";
import type { DnsPolicy } from "./system-dns.ts";

/*
 * Line 1, the marker:  # Written by higgs while its tunnel is up; "higgs state clean" puts back what was here. <length> <sha256>
 * The rest, the body:  nameserver lines, and perhaps a search line
 *
 * <length> is the body's in bytes, <sha256> the body's in hex. So the file proves by itself, without any memory of ours, that
 * nobody edited it; and a write in place that was cut short shows as a whole body with line ends behind it.
 */
const MARKER = '# Written by higgs while its tunnel is up; "higgs state clean" puts back what was here.';
const MARKER_LINE = new RegExp(`^${MARKER.replaceAll(".", "\\.")} (\\d{1,6}) ([0-9a-f]{64})\n`);

/** glibc reads three at most. */
const SERVERS_LIMIT = 3;

export function resolvConfText(policy: DnsPolicy): string {
  const lines = policy.servers.slice(0, SERVERS_LIMIT).map((server) => `nameserver ${server}`);
  const domains = searchDomainsOf(policy);
  if (domains.length > 0) lines.push(`search ${domains.join(" ")}`);
  const body = `${lines.join("\n")}\n`;
  return `${MARKER} ${Buffer.byteLength(body)} ${sha256(Buffer.from(body))}\n${body}`;
}

/** True for a file that we wrote and nobody edited. */
export function isOurs(bytes: Uint8Array): boolean {
  const text = Buffer.from(bytes).toString("latin1");
  const match = MARKER_LINE.exec(text);
  if (match === null) return false;
  const rest = bytes.subarray(match[0].length);
  const length = Number(match[1]);
  return sha256(rest.subarray(0, length)) === match[2] && isPadding(rest.subarray(length));
}

/** True for the original whose writing in place ended before the rest of ours was cut off. */
export function isPaddedCopy(bytes: Uint8Array, original: Uint8Array): boolean {
  return (
    bytes.length > original.length &&
    Buffer.compare(bytes.subarray(0, original.length), original) === 0 &&
    isPadding(bytes.subarray(original.length))
  );
}

/**
 * What is written in place before the file is cut to `bytes.length`: a file is never a mixture of two texts, as one write of
 * a few hundred bytes is whole or was not begun, and line ends behind a text mean nothing to a resolver.
 */
export function padded(bytes: Uint8Array, lengthNow: number): Uint8Array {
  const text = new Uint8Array(Math.max(bytes.length, lengthNow)).fill(LINE_END);
  text.set(bytes);
  return text;
}

export function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

const LINE_END = 0x0a;

function isPadding(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === LINE_END);
}
