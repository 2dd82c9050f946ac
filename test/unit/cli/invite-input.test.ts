import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sha256 } from "@noble/hashes/sha2.js";
import { concatBytes, fromBase64Url, toBase64Url } from "../../../src/base/bytes.ts";
import { readInvite } from "../../../src/cli/invite-input.ts";
import { formatInvite, type Invite, InviteError } from "../../../src/proto/invite.ts";
import { UsageError } from "../../../src/roles/config.ts";
import { failureOf } from "../support/failure.ts";
import { NETWORK_KEY } from "../support/keys.ts";

const invite: Invite = {
  servers: [{ host: "vps.example", port: 443 }],
  network: NETWORK_KEY,
  id: "abcd1234",
  secret: new Uint8Array(32).fill(0x5a),
  role: "client",
  name: null,
  tags: [],
};
const text = formatInvite(invite);
const secret = toBase64Url(invite.secret);

let dir = "";
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "higgs-invite-"));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

async function inFile(content: string): Promise<string> {
  const path = join(dir, crypto.randomUUID());
  await Bun.write(path, content);
  return `file:${path}`;
}

test("readInvite() takes an invite as an argument, or from a file with a line end", async () => {
  expect(await readInvite(text)).toEqual(invite);
  expect(await readInvite(await inFile(`${text}\n`))).toEqual(invite);
});

test("readInvite() says that an invite is mistyped wherever it came from, and never shows it", async () => {
  for (const wrong of [text.slice(0, -1), `${text}x`, "higgs://", "", "hello"]) {
    for (const given of [wrong, await inFile(wrong)]) {
      const thrown = await failureOf(readInvite(given));
      expect(thrown).toBeInstanceOf(InviteError);
      expect(thrown).toMatchObject({ code: "invite-mistyped" });
      expect(String(thrown)).not.toContain(secret.slice(0, 20));
    }
  }
});

test("readInvite() says that an invite is of a newer version also when it came from a file", async () => {
  const payload = fromBase64Url(text.slice(text.indexOf("#") + 1)) ?? new Uint8Array(5);
  const body = payload.slice(0, -4).with(0, 9);
  const newer = `higgs://vps.example:443/#${toBase64Url(concatBytes(body, sha256(body).subarray(0, 4)))}`;
  for (const given of [newer, await inFile(newer)]) {
    expect(await failureOf(readInvite(given))).toMatchObject({
      code: "invite-version",
      remedy: "Update higgs on this machine.",
    });
  }
});

test("readInvite() names the file that it cannot read", async () => {
  const thrown = await failureOf(readInvite(`file:${join(dir, "missing")}`));
  expect(thrown).toBeInstanceOf(UsageError);
  expect(String(thrown)).toContain(join(dir, "missing"));
});
