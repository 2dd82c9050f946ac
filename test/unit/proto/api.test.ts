import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { z } from "zod";
import {
  challengeRequestSchema,
  challengeResponseSchema,
  cidrSchema,
  hostPortSchema,
  identityKeySchema,
  ipAddressSchema,
  machineIdSchema,
  machineNameSchema,
  problemSchema,
  proofRequestSchema,
  proofResponseSchema,
  registerRequestSchema,
  registerResponseSchema,
  signatureSchema,
  spkiHashSchema,
  tagSchema,
  tokenRequestSchema,
  tokenResponseSchema,
  wireGuardKeySchema,
} from "../../../src/proto/api.ts";
import { type Json, optionalFields, withValue, wrongKindsAccepted } from "../support/json.ts";
import { MACHINE_KEY, NETWORK_KEY, WIREGUARD_KEY } from "../support/keys.ts";
import { check } from "../support/property.ts";

const MACHINE = "01234567-89ab-cdef-0123-456789abcdef";
const BYTES32 = "A".repeat(42) + "E";
const SIGNATURE = "B".repeat(85) + "A";

const BODIES: {
  readonly name: string;
  readonly schema: z.ZodType;
  readonly body: Json;
  readonly optional?: readonly string[];
}[] = [
  { name: "proofRequestSchema", schema: proofRequestSchema, body: { nonce: BYTES32 } },
  {
    name: "proofResponseSchema",
    schema: proofResponseSchema,
    body: {
      network: NETWORK_KEY,
      spki: BYTES32,
      names: ["vpn.example:443", "[2001:db8::1]:8443"],
      signature: SIGNATURE,
    },
  },
  {
    name: "registerRequestSchema",
    schema: registerRequestSchema,
    body: {
      inviteId: "abc_-XYZ",
      secret: BYTES32,
      name: "home",
      nameIsChosen: false,
      identity: MACHINE_KEY,
      wireGuard: WIREGUARD_KEY,
      signature: SIGNATURE,
      version: "0.1.0",
      platform: "linux-x64",
    },
  },
  {
    name: "registerResponseSchema",
    schema: registerResponseSchema,
    body: {
      id: MACHINE,
      name: "home",
      role: "node",
      tags: ["attic"],
      network: NETWORK_KEY,
      ipv4: "10.64.0.2",
      ipv6: "fd00:1:2::2",
      range4: "10.64.0.0/16",
      range6: "fd00:1:2::/48",
      servers: ["vpn.example:443"],
    },
  },
  { name: "challengeRequestSchema", schema: challengeRequestSchema, body: { machine: MACHINE } },
  {
    name: "challengeResponseSchema",
    schema: challengeResponseSchema,
    body: { challenge: BYTES32, bootId: `${"C".repeat(21)}A` },
  },
  {
    name: "tokenRequestSchema",
    schema: tokenRequestSchema,
    body: { machine: MACHINE, challenge: BYTES32, signature: SIGNATURE },
  },
  { name: "tokenResponseSchema", schema: tokenResponseSchema, body: { token: BYTES32, expiresInS: 900 } },
];

describe("bodies", () => {
  for (const { name, schema, body } of BODIES) {
    test(`${name} accepts its body and gives it back`, () => {
      expect(schema.parse(body)).toEqual(body);
    });

    test(`${name} requires every field`, () => {
      expect(optionalFields(schema, body)).toEqual([]);
    });

    test(`${name} refuses a value of another kind in every place`, () => {
      // Texts for people are not for machines to judge; everything else has a form.
      const free = wrongKindsAccepted(schema, body).filter((place) => !/^(version|platform): "\\u0000"$/.test(place));
      expect(free).toEqual([]);
    });

    test(`${name} leaves out fields that it does not know`, () => {
      expect(schema.parse(withValue(body, ["later"], { kind: "unknown" }))).toEqual(body);
      expect(
        Object.keys(
          schema.parse(JSON.parse(`{"__proto__": {"role": "admin"}, ${JSON.stringify(body).slice(1)}`)) as object,
        ),
      ).toEqual(Object.keys(body as object));
    });

    test(`${name} refuses random JSON, and never throws`, () => {
      check(fc.property(fc.jsonValue(), (value) => expect(schema.safeParse(value).success).toBe(false)));
    });
  }

  test("problemSchema accepts RFC 9457 with a code, and a remedy where there is one", () => {
    const problem = {
      type: "about:blank",
      title: "Not found",
      status: 404,
      detail: "Cannot find it.",
      code: "not-found",
    };
    expect(problemSchema.parse(problem)).toEqual(problem);
    expect(problemSchema.parse({ ...problem, remedy: "Look again." })).toEqual({ ...problem, remedy: "Look again." });
    expect(problemSchema.safeParse({ ...problem, code: 404 }).success).toBe(false);
  });
});

describe("fields", () => {
  const sound: [z.ZodType, readonly string[]][] = [
    [machineNameSchema, ["home", "a", "x".repeat(63)]],
    [machineIdSchema, [MACHINE, "00000000-0000-0000-0000-000000000000"]],
    [ipAddressSchema, ["10.64.0.2", "2001:db8::1", "::"]],
    [cidrSchema, ["10.64.0.0/16", "::/0", "2001:db8::1/128"]],
    [tagSchema, ["a", "0", "9", "a9-b", "a-", "x".repeat(32)]],
    [hostPortSchema, ["vpn.example:443", "203.0.113.10:1", "[2001:db8::1]:65535", `${"a.".repeat(126)}a:65535`]],
    [spkiHashSchema, [BYTES32]],
    [identityKeySchema, [NETWORK_KEY]],
    [wireGuardKeySchema, [WIREGUARD_KEY]],
    [signatureSchema, [SIGNATURE]],
  ];

  test("the fields' schemas accept sound values", () => {
    for (const [schema, texts] of sound)
      for (const text of texts) expect(schema.safeParse(text)).toMatchObject({ success: true, data: text });
  });

  test("the fields' schemas refuse text around a sound value, another case, and what is dangerous elsewhere", () => {
    const spoil: ((text: string) => string)[] = [
      ...[" ", "\n", "\0", '"', "'", ";", "{", "}", "$(id)", "`", "../", "\u001b[2J", "\u202e", "%00", "<b>"].flatMap(
        (bad) => [
          (text: string) => text + bad,
          (text: string) => bad + text,
          (text: string) => text.slice(0, 1) + bad + text.slice(1),
        ],
      ),
      () => "",
      (text) => text.repeat(300),
    ];
    for (const [schema, texts] of sound) {
      for (const change of spoil) {
        const spoiled = change(texts[0] ?? "");
        expect({ spoiled, accepted: schema.safeParse(spoiled).success }).toEqual({ spoiled, accepted: false });
      }
    }
    expect(tagSchema.safeParse("x".repeat(33)).success).toBe(false);
    for (const schema of [machineNameSchema, tagSchema]) expect(schema.safeParse("Home").success).toBe(false);
    expect(machineIdSchema.safeParse(MACHINE.toUpperCase()).success).toBe(false);
  });

  test("the fields' schemas refuse a second spelling of a sound value", () => {
    const second: [z.ZodType, readonly string[]][] = [
      [ipAddressSchema, ["2001:DB8::1", "2001:db8:0::1", "::ffff:10.64.0.2", "10.64.0.02", "0x0a400002"]],
      [cidrSchema, ["10.64.0.1/16", "10.64.0.0/016", "::ffff:10.0.0.0/104", "2001:db8::1/64"]],
      [
        hostPortSchema,
        [
          "vpn.Example:443",
          "vpn.example",
          "vpn.example:0443",
          "vpn.example:0",
          "2001:db8::1",
          "[2001:db8:0::1]:443",
          "0x7f.1:443",
        ],
      ],
      [spkiHashSchema, ["A".repeat(42) + "F", `${BYTES32}=`]],
      [wireGuardKeySchema, [WIREGUARD_KEY.slice(0, -1), WIREGUARD_KEY.replace("o=", "p=")]],
      [identityKeySchema, [`${NETWORK_KEY.slice(0, -1)}p`]],
      [signatureSchema, ["B".repeat(86)]],
    ];
    for (const [schema, texts] of second) {
      for (const text of texts)
        expect({ text, accepted: schema.safeParse(text).success }).toEqual({ text, accepted: false });
    }
  });

  test("proofRequestSchema and its like refuse base64url with bits left over, which decodes to nothing", () => {
    expect(proofRequestSchema.safeParse({ nonce: "A".repeat(42) + "F" }).success).toBe(false);
    expect(tokenResponseSchema.safeParse({ token: "A".repeat(42) + "/", expiresInS: 1 }).success).toBe(false);
    expect(challengeResponseSchema.safeParse({ challenge: BYTES32, bootId: "C".repeat(22) }).success).toBe(false);
  });
});
