import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { bindingRequest, checkIntegrity, decodeStun, encodeStun } from "../../../src/proto/stun.ts";
import { stunAnswer } from "../../../src/server/stun.ts";
import { hex } from "../support/keys.ts";
import { noise } from "../support/noise.ts";
import { check } from "../support/property.ts";

/** What is sent back to where the request came from. */
function answerTo(...[datagram, from]: Parameters<typeof stunAnswer>): Uint8Array | null {
  const answer = stunAnswer(datagram, from);
  if (answer !== null) expect(answer.port).toBe(from.port);
  return answer?.bytes ?? null;
}

const ID = hex("b7e7a701bc34d686fa87dfae");
const KEY = new Uint8Array(32).fill(1);
const OTHER_KEY = new Uint8Array(32).fill(2);
const REQUEST = encodeStun(bindingRequest(ID));
const FROM = { address: "192.0.2.1", port: 32_853 };
/** IP and UDP headers. */
const HEADERS = { 4: 28, 6: 48 };

describe("stunAnswer()", () => {
  test("tells an IPv4 sender its address, as golden bytes", () => {
    const answer = answerTo(REQUEST, FROM);
    // The XOR-MAPPED-ADDRESS is that of RFC 5769 section 2.2, for the same address, port and transaction.
    expect(answer?.toHex()).toBe("0101000c2112a442b7e7a701bc34d686fa87dfae002000080001a147e112a643");
  });

  test("tells an IPv6 sender its address, and takes an IPv4-mapped one for what it is", () => {
    const six = answerTo(REQUEST, { address: "2001:db8:1234:5678:11:2233:4455:6677", port: 32_853 });
    // RFC 5769 section 2.3
    expect(six?.toHex()).toBe(
      "010100182112a442b7e7a701bc34d686fa87dfae002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9",
    );
    expect(answerTo(REQUEST, { address: "::ffff:192.0.2.1", port: 32_853 })).toEqual(answerTo(REQUEST, FROM));
  });

  test("answers an attribute that it must understand and does not with 420 and its number", () => {
    const request = encodeStun(bindingRequest(ID, [{ type: "unknown", code: 0x7777, value: new Uint8Array(4) }]));
    const answer = decodeStun(answerTo(request, FROM) ?? new Uint8Array(0));
    expect(answer?.class).toBe("error");
    expect(answer?.attributes.find((attribute) => attribute.type === "error-code")).toMatchObject({ code: 420 });
    expect(answer?.attributes.find((attribute) => attribute.type === "unknown-attributes")).toMatchObject({
      types: [0x7777],
    });
  });

  test("answers a fingerprint with one, and a wrong one with nothing", () => {
    const request = encodeStun(bindingRequest(ID), { fingerprint: true });
    expect(decodeStun(answerTo(request, FROM) ?? new Uint8Array(0))?.attributes.at(-1)?.type).toBe("fingerprint");
    expect(answerTo(request.with(request.length - 1, (request.at(-1) ?? 0) ^ 1), FROM)).toBeNull();
  });

  test("answers a request of full size, sent to measure the way", () => {
    expect(answerTo(encodeStun(bindingRequest(ID), { sizeBytes: 1472 }), FROM)?.length).toBe(32);
  });

  test("answers at another port of the same address, for a machine of the network alone, and learns nothing from it", () => {
    const noted: string[] = [];
    const users = { keyOf: () => KEY, note: (user: string) => void noted.push(user) };
    const attributes = [{ type: "username", text: "me" } as const, { type: "response-port", port: 7 } as const];
    const asked = encodeStun(bindingRequest(ID, attributes), { integrityKey: KEY });
    const answer = stunAnswer(asked, FROM, users);
    expect(answer?.port).toBe(7);
    expect(checkIntegrity(answer?.bytes ?? new Uint8Array(0), KEY)).toBe(true);
    expect(stunAnswer(encodeStun(bindingRequest(ID, attributes)), FROM, users)).toBeNull();
    expect(stunAnswer(encodeStun(bindingRequest(ID, attributes), { integrityKey: OTHER_KEY }), FROM, users)).toBeNull();
    expect(stunAnswer(asked, FROM)).toBeNull();
    expect(noted).toEqual([]);
    const plain = encodeStun(bindingRequest(ID, attributes.slice(0, 1)), { integrityKey: KEY });
    expect(stunAnswer(plain, FROM, users)?.port).toBe(FROM.port);
    expect(noted).toEqual(["me"]);
  });

  test.each<[string, Uint8Array]>([
    ["nothing", new Uint8Array(0)],
    ["text", new TextEncoder().encode("hello, is anybody there?")],
    ["a success", encodeStun({ class: "success", method: 1, transactionId: ID, attributes: [] })],
    ["an indication", encodeStun({ class: "indication", method: 1, transactionId: ID, attributes: [] })],
    ["another method", encodeStun({ class: "request", method: 3, transactionId: ID, attributes: [] })],
    ["a request without the magic cookie", REQUEST.with(4, 0)],
    ["a request that is too short", REQUEST.slice(0, 19)],
    ["a WireGuard handshake", new Uint8Array(148).with(0, 1)],
  ])("does not answer %s", (_what, datagram) => {
    expect(answerTo(datagram, FROM)).toBeNull();
  });

  test("never sends more than twice the packet that asked, whatever it was", () => {
    check(
      fc.property(noise(encodeStun(bindingRequest(ID), { fingerprint: true })), fc.boolean(), (datagram, six) => {
        const from = six ? { address: "2001:db8::1", port: 9 } : FROM;
        const headers = six ? HEADERS[6] : HEADERS[4];
        const answer = answerTo(datagram, from);
        if (answer !== null) expect(answer.length + headers).toBeLessThanOrEqual(2 * (datagram.length + headers));
      }),
    );
  });

  test("does not answer a sender without an address or a port", () => {
    expect(answerTo(REQUEST, { address: "", port: 1 })).toBeNull();
    expect(answerTo(REQUEST, { address: "192.0.2.1", port: 0 })).toBeNull();
  });
});
