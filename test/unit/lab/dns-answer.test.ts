// The answers of the lab's DNS server, byte for byte, and what it does with bytes that are no query.
import { describe, expect, test } from "bun:test";
import { decode, encode } from "dns-packet";
import fc from "fast-check";
import { answerDns } from "../../../src/lab/dns-answer.ts";
import { WHOAMI_NAME } from "../../../src/lab/small-internet.ts";
import type { ZoneRecord } from "../../../src/lab/topology.ts";

const zone: readonly ZoneRecord[] = [
  { name: "web.lab.example", type: "A", data: "203.0.113.80" },
  { name: "web.lab.example", type: "AAAA", data: "2001:db8:80::80" },
  ...Array.from({ length: 10 }, (_, index): ZoneRecord => {
    return { name: "long.lab.example", type: "TXT", data: `${index}`.repeat(100) };
  }),
];
const from = { zone, asker: "203.0.113.66", isDatagram: true };

function ask(name: string, type: "A" | "AAAA" | "TXT", id = 0x1234): Uint8Array {
  return encode({ type: "query", id, flags: 0x100, questions: [{ type, name }] });
}

describe("answerDns()", () => {
  test("gives an address in the bytes of RFC 1035", () => {
    const reply = answerDns(ask("web.lab.example", "A"), from);
    const name = "0377656203 6c616207 6578616d706c6500";
    const golden = `1234 8580 0001 0001 0000 0000 ${name} 0001 0001 ${name} 0001 0001 00000001 0004 cb007150`;
    expect(Buffer.from(reply?.bytes ?? []).toString("hex")).toBe(golden.replaceAll(" ", ""));
    expect(reply?.query).toEqual({ name: "web.lab.example", type: "A" });
  });

  test("finds names whatever their case, and says so in the case of the question", () => {
    const answers = answersTo(ask("WEB.lab.Example", "AAAA"));
    expect(answers).toMatchObject([{ name: "WEB.lab.Example", data: "2001:db8:80::80" }]);
  });

  test("tells a name that does not exist from one without such a record", () => {
    const rcode = (query: Uint8Array) => (answerDns(query, from)?.bytes[3] ?? 0) & 15;
    expect(rcode(ask("no.lab.example", "A"))).toBe(3);
    expect(rcode(ask("web.lab.example", "TXT"))).toBe(0);
    expect(answersTo(ask("web.lab.example", "TXT"))).toEqual([]);
  });

  test("answers questions of any type, such as a browser's for HTTPS records", () => {
    const query = Buffer.from(ask("web.lab.example", "A"));
    for (let type = 0; type < 0x1_0000; type += type < 300 ? 1 : 4099) {
      query.writeUInt16BE(type, query.length - 4);
      const reply = Buffer.from(answerDns(query, from)?.bytes ?? []);
      expect(reply.subarray(12, query.length).equals(query.subarray(12))).toBe(true);
    }
  });

  test("tells the asker its own address", () => {
    expect(answersTo(ask(WHOAMI_NAME, "TXT"))).toMatchObject([{ data: [Buffer.from("203.0.113.66")] }]);
  });

  test("cuts what is too long for a datagram, unless the question allows more or came over a stream", () => {
    const long = ask("long.lab.example", "TXT");
    const cut = answerDns(long, from)?.bytes ?? new Uint8Array(0);
    expect({ truncated: ((cut[2] ?? 0) & 2) !== 0, answers: decode(Buffer.from(cut)).answers }).toEqual({
      truncated: true,
      answers: [],
    });
    const whole = answerDns(long, { ...from, isDatagram: false })?.bytes ?? new Uint8Array(0);
    expect(decode(Buffer.from(whole)).answers).toHaveLength(10);
  });

  test("drops answers, questions without a question, and bytes that are not DNS, without an error", () => {
    expect(answerDns(encode({ type: "response", id: 1, questions: [{ type: "A", name: "x" }] }), from)).toBeNull();
    expect(answerDns(encode({ type: "query", id: 1 }), from)).toBeNull();
    const query = ask("web.lab.example", "A");
    for (let length = 0; length < query.length; length += 1)
      expect(answerDns(query.subarray(0, length), from)).toBeNull();
    fc.assert(fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => void answerDns(bytes, from)));
  });
});

function answersTo(query: Uint8Array) {
  return decode(Buffer.from(answerDns(query, from)?.bytes ?? [])).answers;
}
