import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { toBase64Url } from "../../../src/base/bytes.ts";
import { formatHostPort } from "../../../src/base/ip.ts";
import type { MachineId, SpkiHash } from "../../../src/proto/keys.ts";
import { enrolmentMessage, machineProofMessage, serverProofMessage } from "../../../src/proto/proof.ts";
import {
  hex,
  MACHINE_HEX,
  MACHINE_KEY,
  NETWORK_HEX,
  NETWORK_KEY,
  STRANGER_KEY,
  WIREGUARD_HEX,
  WIREGUARD_KEY,
} from "../support/keys.ts";
import { check } from "../support/property.ts";
import { anyHostPort } from "../support/values.ts";

const NONCE_HEX = "a0".repeat(32);
const SPKI_HEX = "5b".repeat(32);
const SPKI = toBase64Url(hex(SPKI_HEX)) as SpkiHash;
const MACHINE = "01234567-89ab-cdef-0123-456789abcdef" as MachineId;

describe("golden bytes", () => {
  test("serverProofMessage() is nonce, certificate and names", () => {
    const bytes = serverProofMessage({
      nonce: hex(NONCE_HEX),
      spki: SPKI,
      names: ["vpn.example:443", "[2001:db8::1]:443"],
    });
    expect(bytes.toHex()).toBe(
      hex(`${NONCE_HEX} ${SPKI_HEX} 02
        000f 76706e2e6578616d706c653a343433
        0011 5b323030313a6462383a3a315d3a343433`).toHex(),
    );
  });

  test("machineProofMessage() is challenge, boot id, machine, network and certificate", () => {
    const bytes = machineProofMessage({
      challenge: hex(NONCE_HEX),
      bootId: hex("c1".repeat(16)),
      machine: MACHINE,
      network: NETWORK_KEY,
      spki: SPKI,
    });
    const machineHex = Buffer.from(MACHINE).toString("hex");
    expect(bytes.toHex()).toBe(hex(`${NONCE_HEX} ${"c1".repeat(16)} ${machineHex} ${NETWORK_HEX} ${SPKI_HEX}`).toHex());
  });

  test("enrolmentMessage() is network, certificate, invite, role and both keys", () => {
    const bytes = enrolmentMessage({
      network: NETWORK_KEY,
      spki: SPKI,
      inviteId: "abcdefgh",
      role: "client",
      identity: MACHINE_KEY,
      wireGuard: WIREGUARD_KEY,
    });
    expect(bytes.toHex()).toBe(
      hex(`${NETWORK_HEX} ${SPKI_HEX} 08 6162636465666768 02 ${MACHINE_HEX} ${WIREGUARD_HEX}`).toHex(),
    );
  });
});

describe("unambiguous messages", () => {
  test("serverProofMessage() differs whenever the names differ", () => {
    const names = fc.array(anyHostPort.map(formatHostPort), { maxLength: 4 });
    check(
      fc.property(names, names, (a, b) => {
        const bytes = (list: readonly string[]): string =>
          serverProofMessage({ nonce: hex(NONCE_HEX), spki: SPKI, names: list }).toHex();
        expect(bytes(a) === bytes(b)).toBe(JSON.stringify(a) === JSON.stringify(b));
      }),
    );
  });

  test("serverProofMessage() tells names of more than 255 bytes from shorter ones", () => {
    const long = `${"a".repeat(63)}.`.repeat(3) + `${"b".repeat(61)}:65535`; // 259 bytes, the longest there is
    const bytes = serverProofMessage({ nonce: hex(NONCE_HEX), spki: SPKI, names: [long] });
    expect(long.length).toBe(259);
    expect(bytes.subarray(64, 67).toHex()).toBe("010103");
  });

  test("enrolmentMessage() differs when any one part differs", () => {
    const base = {
      network: NETWORK_KEY,
      spki: SPKI,
      inviteId: "abcdefgh",
      role: "node",
      identity: MACHINE_KEY,
      wireGuard: WIREGUARD_KEY,
    } as const;
    const others = [
      { ...base, network: STRANGER_KEY },
      { ...base, spki: toBase64Url(hex("5c".repeat(32))) as SpkiHash },
      { ...base, inviteId: "abcdefgi" },
      { ...base, role: "client" as const },
      { ...base, identity: STRANGER_KEY },
    ];
    const messages = [base, ...others].map((proof) => enrolmentMessage(proof).toHex());
    expect(new Set(messages).size).toBe(messages.length);
  });
});
