import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { utf8 } from "../../../src/base/bytes.ts";
import type { IpAddress } from "../../../src/base/ip.ts";
import {
  bindingError,
  bindingRequest,
  bindingSuccess,
  checkFingerprint,
  checkIntegrity,
  decodeStun,
  encodeStun,
  StunError,
  type StunMessage,
  unknownComprehensionRequired,
} from "../../../src/proto/stun.ts";
import type { StunAttribute } from "../../../src/proto/stun-attribute.ts";
import { hex } from "../support/keys.ts";
import { everyTruncation, noise } from "../support/noise.ts";
import { check } from "../support/property.ts";
import {
  PASSWORD,
  SAMPLE_REQUEST,
  SAMPLE_IPV4_RESPONSE,
  SAMPLE_IPV6_RESPONSE,
  SAMPLE_LONG_TERM_REQUEST,
  SAMPLE_SHA256_REQUEST,
} from "../support/stun-samples.ts";
import { anyEndpoint, anyText } from "../support/values.ts";

const ID = hex("b7e7a701 bc34d686 fa87dfae");
const KEY = utf8("a key of this session and end");

describe("golden bytes", () => {
  const golden: { readonly what: string; readonly message: StunMessage; readonly bytes: Uint8Array }[] = [
    {
      what: "a Binding request",
      message: bindingRequest(ID),
      bytes: hex("00010000 2112a442 b7e7a701bc34d686fa87dfae"),
    },
    {
      what: "a Binding success over IPv4",
      message: bindingSuccess(ID, { mapped: { address: "192.0.2.1" as IpAddress, port: 32853 } }),
      bytes: hex("0101000c 2112a442 b7e7a701bc34d686fa87dfae 00200008 0001a147 e112a643"),
    },
    {
      what: "a Binding success over IPv6",
      message: bindingSuccess(ID, {
        mapped: { address: "2001:db8:1234:5678:11:2233:4455:6677" as IpAddress, port: 32853 },
      }),
      bytes: hex("01010018 2112a442 b7e7a701bc34d686fa87dfae 00200014 0002a147 0113a9faa5d3f179bc25f4b5bed2b9d9"),
    },
    {
      what: "a Binding error 420 with what was not understood",
      message: bindingError(ID, { code: 420, reason: "Unknown", unknown: [0x0003, 0x7777, 0x001a] }),
      bytes: hex(`
        0111001c 2112a442 b7e7a701bc34d686fa87dfae
        0009000b 00000414 556e6b6e6f776e 00
        000a0006 0003 7777 001a 0000`),
    },
    {
      what: "an indication of a method whose twelve bits are all set",
      message: { class: "indication", method: 0xfff, transactionId: ID, attributes: [{ type: "use-candidate" }] },
      bytes: hex("3eff0004 2112a442 b7e7a701bc34d686fa87dfae 00250000"),
    },
    {
      what: "padding and an attribute without a name here",
      message: bindingRequest(ID, [
        { type: "padding", lengthBytes: 5 },
        { type: "unknown", code: 0xc057, value: hex("010203") },
      ]),
      bytes: hex("00010014 2112a442 b7e7a701bc34d686fa87dfae 00260005 0000000000 000000 c0570003 010203 00"),
    },
  ];
  for (const { what, message, bytes } of golden) {
    test(`encodeStun() writes ${what}`, () => {
      expect(encodeStun(message).toHex()).toBe(bytes.toHex());
    });
    test(`decodeStun() reads ${what}`, () => {
      expect(decodeStun(bytes)).toEqual(message);
    });
  }

  test("encodeStun() makes the RFC's own integrity and fingerprint from the sample's parts", () => {
    const message = bindingSuccess(ID, { mapped: { address: "192.0.2.1" as IpAddress, port: 32853 } });
    const bytes = encodeStun(message, { integrityKey: PASSWORD, integrity: "sha1", fingerprint: true });
    expect(bytes.toHex()).toBe(
      hex(`
        0101002c 2112a442 b7e7a701bc34d686fa87dfae 00200008 0001a147 e112a643
        00080014 ${new Bun.CryptoHasher("sha1", PASSWORD).update(hex("01010024 2112a442 b7e7a701bc34d686fa87dfae 00200008 0001a147 e112a643")).digest("hex")}
        80280004 ${bytes.subarray(-4).toHex()}`).toHex(),
    );
    expect(checkFingerprint(bytes)).toBe(true);
  });
});

const bytesOf = (length: number): fc.Arbitrary<Uint8Array> => fc.uint8Array({ minLength: length, maxLength: length });
const u16 = fc.integer({ min: 0, max: 0xffff });
const anyAttribute: fc.Arbitrary<StunAttribute> = fc.oneof(
  fc
    .tuple(fc.constantFrom("mapped-address" as const, "xor-mapped-address" as const), anyEndpoint)
    .map(([type, endpoint]): StunAttribute => ({ type, endpoint })),
  fc
    .tuple(fc.constantFrom("username" as const, "realm" as const, "nonce" as const, "software" as const), anyText)
    .map(([type, text]): StunAttribute => ({ type, text })),
  fc
    .tuple(fc.integer({ min: 300, max: 699 }), anyText)
    .map(([code, reason]): StunAttribute => ({ type: "error-code", code, reason })),
  fc.array(u16, { maxLength: 5 }).map((types): StunAttribute => ({ type: "unknown-attributes", types })),
  fc.integer({ min: 0, max: 0xffff_ffff }).map((priority): StunAttribute => ({ type: "priority", priority })),
  fc.constant<StunAttribute>({ type: "use-candidate" }),
  fc.nat(200).map((lengthBytes): StunAttribute => ({ type: "padding", lengthBytes })),
  fc
    .tuple(fc.constantFrom(0x0000, 0x0003, 0x7fff, 0x8000, 0x8029, 0xffff), fc.uint8Array({ maxLength: 40 }))
    .map(([code, value]): StunAttribute => ({ type: "unknown", code, value })),
);
const anyMessage: fc.Arbitrary<StunMessage> = fc.record(
  {
    class: fc.constantFrom("request", "indication", "success", "error"),
    method: fc.integer({ min: 0, max: 0xfff }),
    transactionId: bytesOf(12),
    attributes: fc.array(anyAttribute, { maxLength: 6 }),
  },
  { noNullPrototype: true },
);

describe("properties", () => {
  test("decodeStun() gives back whatever encodeStun() wrote", () => {
    check(
      fc.property(anyMessage, (message) => {
        expect(decodeStun(encodeStun(message))).toEqual(message);
      }),
    );
  });

  test("checkIntegrity() and checkFingerprint() accept whatever encodeStun() made, padded or not", () => {
    const encoding = fc.record({ integrity: fc.constantFrom("sha1", "sha256"), sizeBytes: fc.nat(1500) });
    check(
      fc.property(anyMessage, encoding, (message, options) => {
        const bytes = encodeStun(message, { ...options, integrityKey: KEY, fingerprint: true });
        expect(checkIntegrity(bytes, KEY)).toBe(true);
        expect(checkIntegrity(bytes, PASSWORD)).toBe(false);
        expect(checkFingerprint(bytes)).toBe(true);
        expect(decodeStun(bytes)?.attributes.slice(0, message.attributes.length)).toEqual([...message.attributes]);
      }),
    );
  });

  test("encodeStun() fills up to the size that a path check asks for", () => {
    check(
      fc.property(fc.integer({ min: 200, max: 1500 }), fc.boolean(), (sizeBytes, fingerprint) => {
        const bytes = encodeStun(bindingRequest(ID), { integrityKey: KEY, fingerprint, sizeBytes });
        expect(bytes.length).toBe(sizeBytes - (sizeBytes % 4));
      }),
    );
  });

  test("encodeStun() adds the smallest padding that fits, and none where not even that does", () => {
    const request = bindingRequest(ID);
    const sizes = [0, 19, 20, 23, 24, 27, 28, 31].map((sizeBytes) => encodeStun(request, { sizeBytes }).length);
    expect(sizes).toEqual([20, 20, 20, 20, 24, 24, 28, 28]);
    const types = (sizeBytes: number): string[] | undefined =>
      decodeStun(encodeStun(request, { sizeBytes }))?.attributes.map((attribute) => attribute.type);
    expect([types(23), types(24)]).toEqual([[], ["padding"]]);
  });

  test("decodeStun() returns null or a message for any bytes, and never throws", () => {
    for (const sample of [SAMPLE_REQUEST, SAMPLE_IPV6_RESPONSE, SAMPLE_SHA256_REQUEST]) {
      check(
        fc.property(noise(sample), (bytes) => {
          const message = decodeStun(bytes);
          checkIntegrity(bytes, KEY);
          checkFingerprint(bytes);
          if (message !== null) unknownComprehensionRequired(message);
        }),
      );
    }
  });
});

describe("refusal", () => {
  test("decodeStun() returns null for every truncation of every sample", () => {
    const samples = [SAMPLE_REQUEST, SAMPLE_IPV4_RESPONSE, SAMPLE_IPV6_RESPONSE, SAMPLE_LONG_TERM_REQUEST];
    for (const cut of samples.flatMap(everyTruncation)) {
      expect(decodeStun(cut)).toBeNull();
      expect(checkIntegrity(cut, PASSWORD)).toBe(false);
      expect(checkFingerprint(cut)).toBe(false);
    }
  });

  test("decodeStun() returns null for every truncation whose header was corrected, unless an attribute ends there", () => {
    const ends = new Set([20, 40, 48, 60, 76, 100]); // where an attribute of the sample ends
    for (const cut of everyTruncation(SAMPLE_REQUEST).slice(20)) {
      const corrected = cut.with(2, (cut.length - 20) >> 8).with(3, (cut.length - 20) & 0xff);
      expect(decodeStun(corrected) === null).toBe(!ends.has(cut.length));
    }
  });

  test("decodeStun() returns null for what is no STUN message", () => {
    const request = encodeStun(bindingRequest(ID));
    expect(decodeStun(new Uint8Array(0))).toBeNull();
    expect(decodeStun(request.with(0, 0x40))).toBeNull(); // a TURN channel
    expect(decodeStun(request.with(0, 0x80))).toBeNull(); // RTP
    for (const at of [4, 5, 6, 7]) expect(decodeStun(request.with(at, 0))).toBeNull(); // the cookie
    expect(decodeStun(request.with(3, 4))).toBeNull(); // longer than it is
    expect(decodeStun(Uint8Array.of(...request, 0, 0, 0, 0))).toBeNull(); // shorter than it is
    expect(decodeStun(Uint8Array.of(...request.with(3, 2), 0, 0))).toBeNull(); // no multiple of 4
  });

  test("decodeStun() returns null for a WireGuard handshake and for transport data", () => {
    const handshake = new Uint8Array(148).with(0, 1);
    const data = new Uint8Array(128).with(0, 4);
    expect([decodeStun(handshake), decodeStun(data)]).toEqual([null, null]);
  });

  test("decodeStun() returns null when a known attribute has a value that its type does not allow", () => {
    const wrong: [code: number, value: string][] = [
      [0x0001, "0001 1234 c00002"], // a byte short
      [0x0001, "0001 1234 c0000201 00"],
      [0x0001, "0003 1234 c0000201"], // no such family
      [0x0001, "0002 1234 c0000201"], // IPv6 in four bytes
      [0x0001, "0001 0000 c0000201"], // port 0
      [0x0020, ""],
      [0x0006, "ff"], // no UTF-8
      [0x0014, "c0af"],
      [0x0015, "eda080"], // a surrogate
      [0x0008, "00".repeat(19)],
      [0x0008, "00".repeat(32)],
      [0x001c, "00".repeat(20)],
      [0x0009, "000004"], // ends before its number
      [0x0009, "00000214"], // class 2
      [0x0009, "00000700"],
      [0x0009, "00000464"], // number 100
      [0x0009, "00000414 ff"],
      [0x000a, "000300"],
      [0x0024, "000000"],
      [0x0025, "00"],
      [0x8022, "ff"],
      [0x8028, "00000000 00"],
    ];
    for (const [code, value] of wrong) {
      const bytes = encodeStun(bindingRequest(ID, [{ type: "unknown", code, value: hex(value) }]));
      expect({ code, value, decoded: decodeStun(bytes) }).toEqual({ code, value, decoded: null });
    }
  });

  test("decodeStun() leaves out what integrity does not cover", () => {
    const covered = encodeStun(bindingRequest(ID), { integrityKey: KEY });
    const smuggled = encodeStun(bindingRequest(ID, [{ type: "use-candidate" }])).subarray(20);
    const bytes = Uint8Array.of(...covered, ...smuggled);
    bytes[3] = bytes.length - 20;
    expect(checkIntegrity(bytes, KEY)).toBe(true);
    expect(decodeStun(bytes)?.attributes.map((attribute) => attribute.type)).toEqual(["message-integrity-sha256"]);
  });

  test("checkIntegrity() goes by SHA-256 alone where a message has both", () => {
    const sha1 = encodeStun(bindingRequest(ID), { integrityKey: KEY, integrity: "sha1" });
    const decoded = decodeStun(sha1);
    if (decoded === null) throw new Error("Cannot test: the message does not decode.");
    const both = encodeStun(decoded, { integrityKey: KEY });
    expect(checkIntegrity(both, KEY)).toBe(true);
    expect(checkIntegrity(both.with(both.length - 1, (both.at(-1) ?? 0) ^ 1), KEY)).toBe(false);
  });

  test("checkIntegrity() refuses a message without integrity, and a shortened one", () => {
    expect(checkIntegrity(encodeStun(bindingRequest(ID), { fingerprint: true }), KEY)).toBe(false);
    const short: StunAttribute = { type: "unknown", code: 0x001c, value: new Uint8Array(16) };
    expect(checkIntegrity(encodeStun(bindingRequest(ID, [short])), KEY)).toBe(false);
  });

  test("checkFingerprint() refuses a fingerprint that is not the last attribute", () => {
    const bytes = encodeStun(bindingRequest(ID), { fingerprint: true });
    const longer = Uint8Array.of(...bytes, ...hex("80220000")).with(3, 12);
    expect(checkFingerprint(longer)).toBe(false);
  });

  test("unknownComprehensionRequired() names each type below 0x8000 once", () => {
    const unknown = (code: number): StunAttribute => ({ type: "unknown", code, value: new Uint8Array(0) });
    const message = bindingRequest(ID, [0x0003, 0x8029, 0x7fff, 0x0003, 0x8000, 0xffff].map(unknown));
    expect(unknownComprehensionRequired(message)).toEqual([0x0003, 0x7fff]);
    expect(unknownComprehensionRequired(bindingRequest(ID, [{ type: "padding", lengthBytes: 4 }]))).toEqual([]);
  });

  test("encodeStun() throws StunError for a message that the format has no room for", () => {
    const large: StunAttribute = { type: "padding", lengthBytes: 65_536 };
    const impossible: StunMessage[] = [
      bindingRequest(new Uint8Array(11)),
      { ...bindingRequest(ID), method: 0x1000 },
      bindingRequest(ID, [large]),
    ];
    for (const message of impossible) expect(() => encodeStun(message)).toThrow(StunError);
  });
});
