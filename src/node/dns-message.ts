// A DNS message in wire format, looked at in place: its question, where its records lie, and answers that have none.
//
//   | id u16 | flags u16 | questions u16 | answers u16 | authorities u16 | additionals u16 |
//   | question: name, type u16, class u16 | (name, type u16, class u16, ttl u32, length u16, data)* |     RFC 1035 section 4.1
import { equalBytes } from "../base/bytes.ts";

export interface Question {
  /** In lower case, without the last dot; bytes that are no printable ASCII as `\ddd`. */
  readonly name: string;
  readonly type: number;
  /** Where the name begins, and where the question ends. */
  readonly start: number;
  readonly end: number;
}

export interface WireRecord {
  readonly section: "answer" | "authority" | "additional";
  readonly type: number;
  readonly ttl: number;
  readonly ttlAt: number;
  readonly dataAt: number;
  readonly length: number;
}

export interface Message {
  readonly isResponse: boolean;
  readonly isTruncated: boolean;
  readonly rcode: number;
  readonly question: Question;
  readonly records: readonly WireRecord[];
}

/** RFC 1035 section 4.1.1. */
export const RCODE = { noError: 0, serverFailure: 2, nameError: 3 } as const;
/** RFC 1035 section 3.2.2, RFC 3596, RFC 6891, RFC 9460. */
export const TYPE = { a: 1, soa: 6, aaaa: 28, opt: 41, svcb: 64, https: 65 } as const;

const HEADER_BYTES = 12;
const MOST_NAME_BYTES = 255;
/** No answer of ours has more, and nobody shall make us count. */
const MOST_RECORDS = 8_192;

/** Null for what is no message with one question, or whose records do not fit into it. */
export function readMessage(bytes: Uint8Array): Message | null {
  if (bytes.length < HEADER_BYTES || u16(bytes, 4) !== 1) return null;
  const question = readQuestion(bytes);
  if (question === null) return null;
  const counts = [u16(bytes, 6), u16(bytes, 8), u16(bytes, 10)] as const;
  const records = readRecords(bytes, { at: question.end, counts });
  if (records === null) return null;
  const high = bytes[2] ?? 0;
  return {
    isResponse: (high & 0x80) !== 0,
    isTruncated: (high & 0x02) !== 0,
    rcode: (bytes[3] ?? 0) & 0x0f,
    question,
    records,
  };
}

function readQuestion(bytes: Uint8Array): Question | null {
  const labels: string[] = [];
  let at = HEADER_BYTES;
  for (;;) {
    const length = bytes[at];
    // A question comes first: there is nothing that a pointer could point to.
    if (length === undefined || length > 63 || at - HEADER_BYTES > MOST_NAME_BYTES) return null;
    at += 1;
    if (length === 0) break;
    if (at + length > bytes.length) return null;
    labels.push(labelText(bytes.subarray(at, at + length)));
    at += length;
  }
  if (at + 4 > bytes.length) return null;
  return { name: labels.join("."), type: u16(bytes, at), start: HEADER_BYTES, end: at + 4 };
}

function labelText(label: Uint8Array): string {
  let text = "";
  for (const byte of label) {
    const isPlain = byte > 0x20 && byte < 0x7f && byte !== 0x2e && byte !== 0x5c;
    text += isPlain ? String.fromCharCode(byte) : `\\${String(byte).padStart(3, "0")}`;
  }
  return text.toLowerCase();
}

function readRecords(
  bytes: Uint8Array,
  from: { readonly at: number; readonly counts: readonly [number, number, number] },
): readonly WireRecord[] | null {
  const sections = ["answer", "authority", "additional"] as const;
  const records: WireRecord[] = [];
  let at = from.at;
  for (const [i, section] of sections.entries()) {
    for (let count = from.counts[i] ?? 0; count > 0; count--) {
      const fixed = afterName(bytes, at);
      if (fixed === null || fixed + 10 > bytes.length || records.length >= MOST_RECORDS) return null;
      const length = u16(bytes, fixed + 8);
      const dataAt = fixed + 10;
      if (dataAt + length > bytes.length) return null;
      records.push({ section, type: u16(bytes, fixed), ttl: u32(bytes, fixed + 4), ttlAt: fixed + 4, dataAt, length });
      at = dataAt + length;
    }
  }
  return records;
}

/** Where what follows a name begins; a pointer ends a name (RFC 1035 section 4.1.4). */
function afterName(bytes: Uint8Array, from: number): number | null {
  let at = from;
  for (;;) {
    const length = bytes[at];
    if (length === undefined || at - from > MOST_NAME_BYTES) return null;
    if (length === 0) return at + 1;
    if (length >= 0xc0) return at + 2 <= bytes.length ? at + 2 : null;
    if (length > 63) return null;
    at += 1 + length;
  }
}

/** The same for two queries that differ only in their id and in the case of the name. */
export function queryKey(query: Uint8Array, question: Question): string {
  const copy = new Uint8Array(query);
  copy[0] = 0;
  copy[1] = 0;
  for (let at = question.start; at < question.end - 4; at++) copy[at] = lower(copy[at] ?? 0);
  return copy.toBase64();
}

/** True when the answer is a response to this very question. Whether the ids are the same is for the transport to know. */
export function isAnswerTo(
  answer: Message,
  question: Question,
  bytes: { query: Uint8Array; answer: Uint8Array },
): boolean {
  if (!answer.isResponse || answer.question.end !== question.end) return false;
  const asked = bytes.query.subarray(question.end - 4, question.end);
  return (
    answer.question.name === question.name && equalBytes(bytes.answer.subarray(question.end - 4, question.end), asked)
  );
}

/** The answer for another asker of the same question: with this one's id, and its spelling of the name. */
export function addressedTo(query: Uint8Array, question: Question, answer: Uint8Array): Uint8Array {
  const copy = new Uint8Array(answer);
  copy[0] = query[0] ?? 0;
  copy[1] = query[1] ?? 0;
  copy.set(query.subarray(question.start, question.end), question.start);
  return copy;
}

/** A response without records. */
export function emptyAnswer(query: Uint8Array, question: Question, rcode: number): Uint8Array {
  const answer = new Uint8Array(question.end);
  answer.set(query.subarray(0, question.end));
  answer[2] = 0x80 | ((query[2] ?? 0) & 0x01); // a response; recursion as it was desired
  answer[3] = 0x80 | rcode; // recursion is available
  answer.fill(0, 6, HEADER_BYTES);
  return answer;
}

function lower(byte: number): number {
  return byte >= 0x41 && byte <= 0x5a ? byte | 0x20 : byte;
}

export function u16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
}

export function u32(bytes: Uint8Array, at: number): number {
  return (u16(bytes, at) * 0x1_0000 + u16(bytes, at + 2)) >>> 0;
}
