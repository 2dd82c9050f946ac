import { expect, test } from "bun:test";
import type { IpAddress } from "../../../src/base/ip.ts";
import { fresh } from "../../../src/peer/path-info.ts";
import { moveSentence } from "../../../src/peer/path-sentence.ts";

const info = (kind: "direct" | "udp-relay", key: string) =>
  fresh({ key, kind, endpoint: { address: key.split(":")[0] as IpAddress, port: 1 }, lan: false });

test("moveSentence() says by which way packets go, by which no more, and why", () => {
  const direct = info("direct", "198.51.100.2:1");
  const relay = info("udp-relay", "203.0.113.10:1");
  expect(moveSentence({ peer: "home", to: direct, from: relay, reason: "it answered" })).toBe(
    "Packets to home go directly by 198.51.100.2:1, no longer through the server's UDP relay by 203.0.113.10:1: it answered.",
  );
  expect(moveSentence({ peer: "home", to: null, from: direct, reason: "it stopped answering" })).toBe(
    "Packets to home go through the server's WebSocket, no longer directly by 198.51.100.2:1: it stopped answering.",
  );
});
