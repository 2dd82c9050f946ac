// What the lab's DNS server answers: its zone, and the asker's own address under one name. Pure.
import {
  AUTHORITATIVE_ANSWER,
  decode,
  encode,
  RECURSION_AVAILABLE,
  RECURSION_DESIRED,
  TRUNCATED_RESPONSE,
} from "dns-packet";
import type { Answer, Packet, Question } from "dns-packet";
import { WHOAMI_NAME } from "./small-internet.ts";
import type { ZoneRecord } from "./topology.ts";

export interface DnsQuery {
  readonly name: string;
  readonly type: string;
}

export interface DnsReply {
  readonly query: DnsQuery;
  readonly bytes: Uint8Array;
}

const NXDOMAIN = 3; // RFC 1035 4.1.1
const TTL_SECONDS = 1; // tests change what is true, and nobody should remember it
const PLAIN_LIMIT_BYTES = 512; // RFC 1035 4.2.1, unless EDNS says more

/** Null for what is no query; such bytes are dropped. */
export function answerDns(
  bytes: Uint8Array,
  from: { readonly zone: readonly ZoneRecord[]; readonly asker: string; readonly isDatagram: boolean },
): DnsReply | null {
  const query = readQuery(bytes);
  const question = query?.questions?.[0];
  if (query === null || question === undefined) return null;
  const name = question.name.toLowerCase();
  const records = [...from.zone, { name: WHOAMI_NAME, type: "TXT" as const, data: from.asker }];
  const named = records.filter((record) => record.name === name);
  const answers = named.filter((record) => record.type === question.type).map((record) => answerOf(record, question));
  const flags = AUTHORITATIVE_ANSWER | RECURSION_AVAILABLE | ((query.flags ?? 0) & RECURSION_DESIRED);
  const reply: Packet = {
    type: "response",
    id: query.id ?? 0,
    flags: flags | (named.length === 0 ? NXDOMAIN : 0),
    questions: [question],
    answers,
  };
  const encoded = encode(reply);
  const tooLong = from.isDatagram && encoded.length > limitOf(query);
  return {
    query: { name, type: question.type },
    bytes: tooLong ? encode({ ...reply, flags: flags | TRUNCATED_RESPONSE, answers: [] }) : encoded,
  };
}

function readQuery(bytes: Uint8Array): Packet | null {
  try {
    const packet = decode(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
    return packet.type === "query" ? packet : null;
  } catch {
    return null; // not DNS
  }
}

function answerOf(record: ZoneRecord, question: Question): Answer {
  return { name: question.name, type: record.type, class: "IN", ttl: TTL_SECONDS, data: record.data };
}

function limitOf(query: Packet): number {
  for (const extra of query.additionals ?? []) {
    if (extra.type === "OPT") return Math.max(PLAIN_LIMIT_BYTES, extra.udpPayloadSize);
  }
  return PLAIN_LIMIT_BYTES;
}
