// The bytes by which a table is taken away without nft, what the kernel's answer means, and when the kernel is asked at all.
import { describe, expect, test } from "bun:test";
import { type Exec, toolMissing } from "../../../../src/net/exec.ts";
import { answerIn, deletionBytes, removingWithoutNft } from "../../../../src/net/firewall/netlink-table.ts";

const hex = (...parts: readonly string[]): string => parts.join("").replaceAll(" ", "");

test("deletionBytes() is one transaction: begin, delete the table and tell, end", () => {
  expect(deletionBytes("higgs_client", "inet").toHex()).toBe(
    hex(
      "14000000 1000 0100 01000000 00000000 0000 000a",
      "28000000 020a 0500 02000000 00000000 0100 0000 1100 0100 68696767735f636c69656e7400 000000",
      "14000000 1100 0100 03000000 00000000 0000 000a",
    ),
  );
  const name = "1800 0100 68696767735f636c69656e745f65677265737300".replaceAll(" ", "");
  expect(deletionBytes("higgs_client_egress", "netdev").toHex()).toContain(`05000000${name}`);
});

describe("answerIn()", () => {
  const answer = (errno: string, sequence = "02000000"): Uint8Array =>
    Uint8Array.fromHex(hex("24000000 0200 0000", sequence, "00000000", errno, "28000000 020a 0500 02000000 00000000"));

  test("says what became of the deletion", () => {
    expect(answerIn(answer("00000000"))).toBe(0);
    expect(answerIn(answer("feffffff"))).toBe(2);
    expect(answerIn(answer("00000000", "07000000"))).toBeNull();
  });

  test("takes every truncation, and garbage, for no answer", () => {
    const whole = answer("00000000");
    for (let length = 0; length < 20; length++) expect(answerIn(whole.subarray(0, length))).toBeNull();
    expect(answerIn(new Uint8Array(64))).toBeNull();
    expect(answerIn(new Uint8Array(64).fill(255))).toBeNull();
  });
});

describe("removingWithoutNft()", () => {
  const without: Exec = { run: ([tool]) => Promise.reject(toolMissing(tool)) };

  test("leaves everything but the removal of a table to the tool that is missing", async () => {
    const exec = removingWithoutNft(without);
    expect(exec.run(["nft", "list", "tables"])).rejects.toThrow('Cannot find the tool "nft"');
    expect(exec.run(["nft", "delete", "table", "arp", "x"])).rejects.toThrow('Cannot find the tool "nft"');
    expect(exec.run(["ip", "rule"])).rejects.toThrow('Cannot find the tool "ip"');
  });

  test("asks the tool where it is there", async () => {
    const exec = removingWithoutNft({ run: () => Promise.resolve({ code: 7, stdout: "", stderr: "" }) });
    expect((await exec.run(["nft", "delete", "table", "inet", "x"])).code).toBe(7);
  });
});
