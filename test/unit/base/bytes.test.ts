import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  ByteReader,
  BytesExhausted,
  ByteWriter,
  concatBytes,
  equalBytes,
  equalSecrets,
  fromBase64,
  fromBase64Url,
  toBase64,
  toBase64Url,
  toHex,
  utf8,
  utf8Text,
} from "../../../src/base/bytes.ts";
import { hex } from "../support/keys.ts";
import { check } from "../support/property.ts";
import { anyText, anyU64 } from "../support/values.ts";

const anyBytes = fc.uint8Array({ maxLength: 80 });

describe("joining and comparing", () => {
  test("concatBytes() joins in order", () => {
    expect(concatBytes(hex("0102"), hex(""), hex("03")).toHex()).toBe("010203");
    expect(concatBytes()).toEqual(new Uint8Array(0));
  });

  test("concatBytes() copies: a later change of a part does not show", () => {
    const part = hex("0102");
    const joined = concatBytes(part);
    part[0] = 9;
    expect(joined.toHex()).toBe("0102");
  });

  test("equalBytes() and equalSecrets() agree with the texts of the bytes", () => {
    check(
      fc.property(anyBytes, anyBytes, (a, b) => {
        expect(equalBytes(a, b)).toBe(a.toHex() === b.toHex());
        expect(equalSecrets(a, b)).toBe(a.toHex() === b.toHex());
        expect([equalBytes(a, a.slice()), equalSecrets(a, a.slice())]).toEqual([true, true]);
      }),
    );
  });

  test("equalSecrets() sees a difference in every bit", () => {
    const secret = hex("00ff10a5");
    for (let bit = 0; bit < 32; bit++) {
      const other = secret.with(bit >> 3, (secret[bit >> 3] ?? 0) ^ (1 << (bit & 7)));
      expect(equalSecrets(secret, other)).toBe(false);
    }
  });
});

describe("texts", () => {
  test("toHex() writes two lower-case digits a byte", () => {
    expect(toHex(hex("000fF0AB"))).toBe("000ff0ab");
  });

  test("utf8Text() gives back what utf8() made", () => {
    check(fc.property(anyText, (text) => expect(utf8Text(utf8(text))).toBe(text)));
  });

  test("utf8Text() keeps a byte order mark at the start", () => {
    expect(utf8Text(hex("efbbbf61"))).toBe("\ufeffa");
  });

  test("utf8Text() throws TypeError on bytes that are no UTF-8", () => {
    for (const bytes of ["ff", "c0af", "eda080", "e282", "f4908080"])
      expect(() => utf8Text(hex(bytes))).toThrow(TypeError);
  });

  test("fromBase64() and fromBase64Url() give back what was written", () => {
    check(
      fc.property(anyBytes, (bytes) => {
        expect(fromBase64(toBase64(bytes))).toEqual(bytes);
        expect(fromBase64Url(toBase64Url(bytes))).toEqual(bytes);
        expect(toBase64(bytes)).toBe(Buffer.from(bytes).toString("base64"));
        expect(toBase64Url(bytes)).toBe(Buffer.from(bytes).toString("base64url"));
      }),
    );
  });

  test("fromBase64() refuses every other spelling of the same bytes", () => {
    for (const text of ["YQ", "YQ=", "YR==", "Y Q==", "YQ==\n", "YQ===", "-_8=", "YQ==YQ==", "=", "ä"]) {
      expect({ text, bytes: fromBase64(text) }).toEqual({ text, bytes: null });
    }
  });

  test("fromBase64Url() refuses every other spelling of the same bytes", () => {
    for (const text of ["YQ==", "YR", "Y Q", "YQ\n", "+/8", "Y", "ä", "=="]) {
      expect({ text, bytes: fromBase64Url(text) }).toEqual({ text, bytes: null });
    }
  });

  test("fromBase64() and fromBase64Url() accept of any text only what they would write", () => {
    const letters = fc.string({
      unit: fc.constantFrom("A", "Q", "g", "w", "/", "_", "+", "-", "=", " ", "\n"),
      maxLength: 9,
    });
    check(
      fc.property(letters, (text) => {
        const plain = fromBase64(text);
        const url = fromBase64Url(text);
        if (plain !== null) expect(toBase64(plain)).toBe(text);
        if (url !== null) expect(toBase64Url(url)).toBe(text);
      }),
    );
  });
});

describe("ByteReader and ByteWriter", () => {
  test("ByteWriter.finish() gives big-endian fields in the order of the calls", () => {
    const bytes = new ByteWriter().u8(0x01).u16(0x0203).u32(0x84050607).u64(0x8899_aabb_ccdd_eeffn).bytes(hex("ff00"));
    expect(bytes.finish().toHex()).toBe("0102038405060788" + "99aabbccddeeffff00");
  });

  test("ByteReader gives back what ByteWriter wrote", () => {
    const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
    check(
      fc.property(fc.nat(0xff), fc.nat(0xffff), u32, anyU64, anyBytes, (a, b, c, d, rest) => {
        const reader = new ByteReader(new ByteWriter().u8(a).u16(b).u32(c).u64(d).bytes(rest).finish());
        expect([reader.u8(), reader.u16(), reader.u32(), reader.u64()]).toEqual([a, b, c, d]);
        expect(reader.left).toBe(rest.length);
        expect(reader.take(rest.length)).toEqual(rest);
        expect(reader.left).toBe(0);
      }),
    );
  });

  test("ByteReader throws BytesExhausted at the end, and stays where it was", () => {
    const reader = new ByteReader(hex("0102"));
    expect(() => reader.take(3)).toThrow(BytesExhausted);
    expect(reader.left).toBe(2);
    expect(reader.u16()).toBe(0x0102);
    expect(() => reader.u8()).toThrow(BytesExhausted);
  });

  test("ByteReader.take() gives a view, also into a part of a larger buffer", () => {
    const whole = hex("00112233");
    const view = new ByteReader(whole.subarray(1, 3)).take(2);
    whole[1] = 0xff;
    expect(view.toHex()).toBe("ff22");
  });
});
