import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { fromBase64, toBase64 } from "../../../src/base/bytes.ts";
import type { MachineName } from "../../../src/base/hostname.ts";
import type { Cidr, IpAddress } from "../../../src/base/ip.ts";
import { sign, type SignatureContext } from "../../../src/proto/keys.ts";
import {
  decodeRecord,
  encodeRecord,
  type MachineRecord,
  openRecord,
  RecordError,
  type SignedRecord,
  signRecord,
} from "../../../src/proto/record.ts";
import {
  hex,
  MACHINE_HEX,
  MACHINE_KEY,
  MACHINE_SECRET,
  NETWORK_HEX,
  NETWORK_KEY,
  STRANGER_KEY,
  STRANGER_SECRET,
  WIREGUARD_HEX,
  WIREGUARD_KEY,
} from "../support/keys.ts";
import { everyByteChanged, everyTruncation, noise } from "../support/noise.ts";
import { check } from "../support/property.ts";
import { anyCidr, anyIp, anyName, anyU64 } from "../support/values.ts";

const RECORD: MachineRecord = {
  network: NETWORK_KEY,
  identity: MACHINE_KEY,
  wireGuard: WIREGUARD_KEY,
  role: "node",
  serial: 7n,
  notAfter: 0x0102_0304_0506_0708n,
  name: "home" as MachineName,
  addresses: ["10.64.0.2" as IpAddress, "fd00:1:2::2" as IpAddress],
  routes: ["0.0.0.0/0" as Cidr, "::/0" as Cidr, "192.168.1.0/24" as Cidr],
  extensions: [
    { type: 3, value: hex("aabb") },
    { type: 200, value: hex("") },
  ],
};
const FIELDS = {
  head: `01 ${NETWORK_HEX} ${MACHINE_HEX} ${WIREGUARD_HEX}`,
  role: "01",
  times: "0000000000000007 0102030405060708",
  name: "04 686f6d65",
  addresses: "02 04 0a400002 06 fd000001000200000000000000000002",
  routes: "03 04 00 00000000 06 00 00000000000000000000000000000000 04 18 c0a80100",
  extensions: "03 0002 aabb c8 0000",
};
const bytesWith = (fields: Partial<typeof FIELDS> = {}): Uint8Array =>
  hex(Object.values({ ...FIELDS, ...fields }).join(""));

function refusal(open: () => unknown): string {
  try {
    open();
  } catch (thrown) {
    if (thrown instanceof RecordError) return thrown.code;
    throw new Error("Cannot test: something else than a RecordError came out.", { cause: thrown });
  }
  return "accepted";
}

describe("golden bytes", () => {
  test("encodeRecord() writes every field in its order", () => {
    expect(encodeRecord(RECORD).toHex()).toBe(bytesWith().toHex());
  });

  test("decodeRecord() reads every field", () => {
    expect(decodeRecord(bytesWith())).toEqual(RECORD);
  });

  test("signRecord() signs the bytes in the record's own context, by the machine itself", () => {
    expect(signRecord(RECORD, MACHINE_SECRET)).toEqual({
      bytes: toBase64(bytesWith()),
      signatures: [{ key: MACHINE_KEY, signature: sign("higgs machine record v1", bytesWith(), MACHINE_SECRET) }],
    });
  });
});

const anyRecord: fc.Arbitrary<MachineRecord> = fc.record(
  {
    network: fc.constantFrom(NETWORK_KEY, STRANGER_KEY),
    identity: fc.constant(MACHINE_KEY),
    wireGuard: fc.constant(WIREGUARD_KEY),
    role: fc.constantFrom("node", "client"),
    serial: anyU64,
    notAfter: anyU64,
    name: anyName,
    addresses: fc.array(anyIp, { maxLength: 4 }),
    routes: fc.array(anyCidr, { maxLength: 6 }),
    extensions: fc
      .uniqueArray(
        fc.record({ type: fc.nat(255), value: fc.uint8Array({ maxLength: 20 }) }, { noNullPrototype: true }),
        {
          selector: (extension) => extension.type,
          maxLength: 4,
        },
      )
      .map((list) => list.toSorted((a, b) => a.type - b.type)),
  },
  { noNullPrototype: true },
);

describe("properties", () => {
  test("decodeRecord() gives back whatever encodeRecord() wrote", () => {
    check(fc.property(anyRecord, (record) => expect(decodeRecord(encodeRecord(record))).toEqual(record)));
  });

  test("decodeRecord() accepts of any bytes only what encodeRecord() would write, and throws nothing but RecordError", () => {
    check(
      fc.property(noise(bytesWith()), (bytes) => {
        let record: MachineRecord;
        try {
          record = decodeRecord(bytes);
        } catch (thrown) {
          expect(thrown).toBeInstanceOf(RecordError);
          return;
        }
        expect(encodeRecord(record)).toEqual(bytes);
      }),
    );
  });

  test("openRecord() gives back whatever signRecord() signed", () => {
    check(
      fc.property(anyRecord, (record) => expect(openRecord(signRecord(record, MACHINE_SECRET))).toEqual(record)),
      { costly: true },
    );
  });

  test("openRecord() throws nothing but RecordError for random text", () => {
    const entry = fc.record({ key: fc.oneof(fc.string(), fc.constant<string>(MACHINE_KEY)), signature: fc.string() });
    const signed = fc.record({
      bytes: fc.oneof(fc.string(), noise(bytesWith()).map(toBase64)),
      signatures: fc.array(entry, { maxLength: 3 }),
    });
    check(
      fc.property(signed, (one) => {
        expect(["record-malformed", "record-signature"]).toContain(refusal(() => openRecord(one)));
      }),
    );
  });
});

describe("canonical form", () => {
  test("decodeRecord() refuses every truncation, unless an extension ends there", () => {
    const whole = bytesWith();
    const ends = [whole.length - 3, whole.length - 8]; // behind the first extension, and behind the routes
    for (const cut of everyTruncation(whole)) {
      expect({ length: cut.length, code: refusal(() => decodeRecord(cut)) }).toEqual({
        length: cut.length,
        code: ends.includes(cut.length) ? "accepted" : "record-malformed",
      });
    }
  });

  test("decodeRecord() refuses a second way to write the same record", () => {
    const other: Partial<typeof FIELDS>[] = [
      { addresses: "02 04 0a400002 07 fd000001000200000000000000000002" }, // a family that reads like 6
      { addresses: "01 06 00000000000000000000ffff0a400002" }, // IPv4-mapped
      { routes: "01 04 18 c0a80105" }, // bits of the host
      { routes: "01 06 68 00000000000000000000ffff0a000000" }, // an IPv4-mapped prefix
      { routes: "01 06 18 00000000000000000000ffff0a000000" },
      { routes: "01 05 00 00000000000000000000000000000000" },
      { extensions: "c8 0000 03 0002 aabb" }, // out of order
      { extensions: "03 0000 03 0000" }, // twice
      { name: "07 efbbbf686f6d65" }, // a byte order mark
    ];
    for (const fields of other) {
      expect({ fields, code: refusal(() => decodeRecord(bytesWith(fields))) }).toEqual({
        fields,
        code: "record-malformed",
      });
    }
  });

  test("decodeRecord() refuses values that a field does not allow", () => {
    const other: Partial<typeof FIELDS>[] = [
      { head: `02 ${NETWORK_HEX} ${MACHINE_HEX} ${WIREGUARD_HEX}` },
      { head: `01 01${"00".repeat(31)} ${MACHINE_HEX} ${WIREGUARD_HEX}` }, // small order
      { head: `01 ${NETWORK_HEX} ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f ${WIREGUARD_HEX}` },
      { head: `01 ${NETWORK_HEX} ${MACHINE_HEX} ${"00".repeat(32)}` },
      { head: `01 ${NETWORK_HEX} ${MACHINE_HEX} ${WIREGUARD_HEX.slice(0, 62)}ea` }, // a second spelling
      { role: "00" },
      { role: "03" },
      { name: "00" },
      { name: "04 484f4d45" }, // HOME
      { name: "04 612e2e62" }, // a..b
      { name: "02 c0af" },
      { routes: "01 04 21 00000000" }, // 33 bits of IPv4
      { routes: `01 06 81 ${"00".repeat(16)}` },
    ];
    for (const fields of other) {
      expect({ fields, code: refusal(() => decodeRecord(bytesWith(fields))) }).toEqual({
        fields,
        code: "record-malformed",
      });
    }
  });

  test("decodeRecord() refuses a record of more than 4 096 bytes, and keeps one of that size", () => {
    const rest = 4096 - bytesWith({ extensions: "" }).length - 3;
    const filled = (length: number): Uint8Array =>
      bytesWith({ extensions: `07 ${length.toString(16).padStart(4, "0")} ${"00".repeat(length)}` });
    expect(refusal(() => decodeRecord(filled(rest)))).toBe("accepted");
    expect(refusal(() => decodeRecord(filled(rest + 1)))).toBe("record-malformed");
  });
});

describe("signatures", () => {
  const signed = signRecord(RECORD, MACHINE_SECRET);
  const [own] = signed.signatures;
  if (own === undefined) throw new Error("Cannot test: the record has no signature.");

  test("openRecord() accepts the machine's own signature among others", () => {
    const stranger = {
      key: STRANGER_KEY,
      signature: sign("higgs machine record v1", bytesWith(), STRANGER_SECRET),
    };
    expect(openRecord(signed)).toEqual(RECORD);
    expect(openRecord({ ...signed, signatures: [own, stranger] })).toEqual(RECORD);
    expect(openRecord({ ...signed, signatures: [{ key: "later", signature: "kind" }, stranger, own] })).toEqual(RECORD);
  });

  test("openRecord() refuses a record that only others signed, or nobody", () => {
    const byStranger = signRecord(RECORD, STRANGER_SECRET);
    const renamed: SignedRecord = {
      ...byStranger,
      signatures: byStranger.signatures.map(({ signature }) => ({ key: MACHINE_KEY, signature })),
    };
    for (const one of [
      byStranger,
      renamed,
      { ...signed, signatures: [] },
      { ...signed, signatures: [{ key: MACHINE_KEY, signature: "" }] },
    ]) {
      expect(refusal(() => openRecord(one))).toBe("record-signature");
    }
  });

  test("openRecord() refuses a signature that was made in another context", () => {
    const contexts: SignatureContext[] = ["higgs server proof v1", "higgs machine proof v1", "higgs enrolment v1"];
    for (const context of contexts) {
      const crossed = { key: MACHINE_KEY, signature: sign(context, bytesWith(), MACHINE_SECRET) };
      expect(refusal(() => openRecord({ ...signed, signatures: [crossed] }))).toBe("record-signature");
    }
  });

  test("openRecord() refuses a record with any one byte changed", () => {
    const bytes = fromBase64(signed.bytes) ?? new Uint8Array(0);
    for (const changed of everyByteChanged(bytes, 0x01)) {
      expect(refusal(() => openRecord({ ...signed, bytes: toBase64(changed) }))).not.toBe("accepted");
    }
  });

  test("openRecord() refuses bytes that are no base64", () => {
    for (const bytes of ["", "?", `${signed.bytes}=`, ` ${signed.bytes}`]) {
      expect(refusal(() => openRecord({ ...signed, bytes }))).toBe("record-malformed");
    }
  });
});
