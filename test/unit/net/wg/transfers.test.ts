// What WireGuard counts for each peer, in both of the languages in which it says so, and a socket that does not answer.
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { askUapi, parseUapiTransfers, parseWgTransfers } from "../../../../src/net/wg/transfers.ts";
import type { WireGuardKey } from "../../../../src/proto/keys.ts";
import { failureOf } from "../../support/failure.ts";

const FIRST = "KApRC2cBHa7xmpBecPrwuEN9kTYbXS+qJmoM87W99ms=" as WireGuardKey;
const SECOND = "96kgCy6tOK6rjTWqFVNru/W70Hjg1cDewyh6a9k72DI=" as WireGuardKey;
const HEX = (key: string): string => Buffer.from(key, "base64").toString("hex");
const SAID = `private_key=${"0".repeat(64)}
listen_port=51820
public_key=${HEX(FIRST)}
endpoint=198.51.100.1:51820
last_handshake_time_sec=1763721000
tx_bytes=38512
rx_bytes=2212
allowed_ip=10.9.8.0/24
public_key=${HEX(SECOND)}
tx_bytes=0
rx_bytes=92
protocol_version=1
errno=0

`;
const WANTED = new Map([
  [FIRST, { rxBytes: 2_212, txBytes: 38_512 }],
  [SECOND, { rxBytes: 92, txBytes: 0 }],
]);

test("parseUapiTransfers() reads what wireguard-go says", () => {
  expect(parseUapiTransfers(SAID)).toEqual(WANTED);
});

test("parseWgTransfers() reads what wg shows", () => {
  expect(parseWgTransfers(`${FIRST}\t2212\t38512\n${SECOND}\t92\t0\n`)).toEqual(WANTED);
});

test("neither fails on any text", () => {
  fc.assert(
    fc.property(fc.string(), fc.nat(SAID.length), (text, cut) => {
      parseUapiTransfers(`${SAID.slice(0, cut)}${text}`);
      parseWgTransfers(`${FIRST}\t${text}`);
    }),
  );
});

test("askUapi() takes an answer in pieces, and does not wait for ever", async () => {
  const dir = mkdtempSync(join(tmpdir(), "higgs-uapi-"));
  const path = join(dir, "sock");
  let isDumb = false;
  const server = Bun.listen({
    unix: path,
    socket: {
      data(socket) {
        if (isDumb) return;
        socket.write(SAID.slice(0, 100));
        setTimeout(() => socket.write(SAID.slice(100)), 5);
      },
    },
  });
  try {
    expect(parseUapiTransfers(await askUapi(path, 1_000))).toEqual(WANTED);
    isDumb = true;
    expect(await failureOf(askUapi(path, 20))).toBeInstanceOf(Error);
  } finally {
    server.stop(true);
    rmSync(dir, { recursive: true });
  }
  expect(await failureOf(askUapi(path, 20))).toBeInstanceOf(Error);
});
