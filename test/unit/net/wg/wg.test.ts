// Tests of reading `wg show dump` and of the arguments that bring a device from one state to another.
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import type { Cidr, IpAddress } from "../../../../src/base/ip.ts";
import { changesFor, type DeviceDump, DumpUnreadable, parseDump, peerChange } from "../../../../src/net/wg/wg.ts";
import type { WireGuardKey } from "../../../../src/proto/keys.ts";
import { WIREGUARD_SECRET } from "../../support/keys.ts";
import { everyTruncation } from "../../support/noise.ts";
import { check } from "../../support/property.ts";

const A = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=" as WireGuardKey;
const B = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAI=" as WireGuardKey;
const REMOTE = "w7RAfYO43jB0XhScwJHkRVwaz+8CTOXXdfqU+nM+omI=" as WireGuardKey;
const HANDSHAKE_S = 1795248519;
const V4 = "10.64.0.3/32" as Cidr;
const V6 = "fd64::3/128" as Cidr;
const endpoint = { address: "203.0.113.7" as IpAddress, port: 51820 };
const NOW_MS = HANDSHAKE_S * 1000;

/** Recorded from wireguard-go v0.0.0-20260522210424 with wireguard-tools 1.0.20210914. */
function recorded(name: string): string {
  return readFileSync(join(import.meta.dir, "recorded", name), "utf8");
}

describe("parseDump()", () => {
  test("reads a device that was just made", () => {
    expect(parseDump(recorded("fresh.dump"))).toEqual({ privateKey: null, listenPort: 36192, mark: 0, peers: [] });
  });

  test("reads keys, mark, and peers with and without endpoint, handshake and keepalive", () => {
    const nothing = { lastHandshakeMs: null, rxBytes: 0, txBytes: 0 };
    expect(parseDump(recorded("peers.dump"))).toEqual({
      privateKey: WIREGUARD_SECRET,
      listenPort: 51820,
      mark: 0x68000,
      peers: [
        {
          publicKey: REMOTE,
          endpoint: { address: "127.0.0.1" as IpAddress, port: 51821 },
          allowedIps: ["0.0.0.0/0" as Cidr, "::/0" as Cidr],
          lastHandshakeMs: HANDSHAKE_S * 1000,
          rxBytes: 180,
          txBytes: 92,
          keepaliveS: 0,
        },
        {
          publicKey: A,
          endpoint: { address: "2001:db8::7" as IpAddress, port: 4000 },
          allowedIps: [V4, V6],
          ...nothing,
          keepaliveS: 25,
        },
        { publicKey: B, endpoint: null, allowedIps: [], ...nothing, keepaliveS: 0 },
      ],
    });
  });

  test("throws its own error only, for every truncation and for noise", () => {
    const sound = recorded("peers.dump");
    const read = (text: string): void => {
      try {
        parseDump(text);
      } catch (thrown) {
        expect(thrown).toBeInstanceOf(DumpUnreadable);
      }
    };
    for (const part of everyTruncation(new TextEncoder().encode(sound))) read(new TextDecoder().decode(part));
    check(fc.property(fc.string(), read));
    check(fc.property(fc.array(fc.string()), (fields) => read(fields.join("\t"))));
  });

  test("shows the private key in none of its errors", () => {
    const broken = recorded("peers.dump").replace("51820", "port");
    expect(() => parseDump(broken)).toThrow(DumpUnreadable);
    expect(() => parseDump(broken)).not.toThrow(WIREGUARD_SECRET);
  });
});

describe("changesFor()", () => {
  const empty: DeviceDump = { privateKey: null, listenPort: 1, mark: 0, peers: [] };
  const wanted = { privateKey: WIREGUARD_SECRET, listenPort: 51820, mark: 0x68000, peers: [] };

  test("gives the key by standard input and the rest by arguments", () => {
    expect(changesFor(empty, wanted, NOW_MS)).toEqual([
      {
        args: ["private-key", "/proc/self/fd/0", "listen-port", "51820", "fwmark", "0x68000"],
        stdin: `${WIREGUARD_SECRET}\n`,
      },
    ]);
  });

  test("is empty for what is as wanted, in whatever order prefixes are told", () => {
    const peer = { publicKey: A, endpoint: null, allowedIps: [V6, V4], keepaliveS: 25 };
    const now = parseDump(recorded("peers.dump"));
    const others = now.peers.filter((one) => one.publicKey !== A);
    expect(changesFor(now, { ...wanted, peers: [...others, peer] }, NOW_MS)).toEqual([]);
  });

  test("removes peers that are no longer wanted before it adds others", () => {
    const peers = [{ publicKey: B, endpoint, allowedIps: [V4], keepaliveS: 0 }];
    const now = { ...parseDump(recorded("peers.dump")) };
    expect(changesFor(now, { ...wanted, peers }, NOW_MS)[0]?.args.slice(0, 6)).toEqual([
      "peer",
      REMOTE,
      "remove",
      "peer",
      A,
      "remove",
    ]);
  });

  test("spreads a thousand peers over command lines of a bounded length", () => {
    const peers = Array.from({ length: 1000 }, (_, n) => {
      const publicKey = new Uint8Array(32)
        .fill(1)
        .with(0, n % 256)
        .with(1, n >> 8)
        .toBase64() as WireGuardKey;
      return { publicKey, endpoint, allowedIps: [V4, V6], keepaliveS: 25 };
    });
    const changes = changesFor({ ...empty, ...wanted, peers: [] }, { ...wanted, peers }, NOW_MS);
    expect(changes).toHaveLength(10);
    for (const { args, stdin } of changes) {
      expect(args.join(" ").length).toBeLessThan(32 * 1024);
      expect(stdin).toBeNull();
    }
  });
});

describe("peerChange()", () => {
  const known = {
    publicKey: A,
    endpoint,
    allowedIps: [V4],
    lastHandshakeMs: NOW_MS,
    rxBytes: 0,
    txBytes: 0,
    keepaliveS: 25,
  };
  const same = { publicKey: A, endpoint, allowedIps: [V4], keepaliveS: 25 };
  const elsewhere = { ...same, endpoint: { ...endpoint, port: 4000 } };

  test("says nothing for a peer that is as wanted", () => {
    expect(peerChange(known, same, NOW_MS)).toEqual([]);
  });

  test("leaves the endpoint where it roamed to when none is wanted", () => {
    expect(peerChange(known, { ...same, endpoint: null }, NOW_MS)).toEqual([]);
  });

  test("names only what changes", () => {
    expect(peerChange(known, { ...same, keepaliveS: 0, allowedIps: [] }, NOW_MS)).toEqual([
      "peer",
      A,
      "persistent-keepalive",
      "0",
      "allowed-ips",
      "",
    ]);
  });

  test("moves a peer with a living session", () => {
    expect(peerChange(known, elsewhere, NOW_MS + 179_999)).toEqual(["peer", A, "endpoint", "203.0.113.7:4000"]);
  });

  test("makes a peer whose session is dead anew for its new endpoint", () => {
    const fresh = ["endpoint", "203.0.113.7:4000", "persistent-keepalive", "25", "allowed-ips", V4];
    const anew = ["peer", A, "remove", "peer", A, ...fresh];
    expect(peerChange(known, elsewhere, NOW_MS + 180_000)).toEqual(anew);
    expect(peerChange({ ...known, lastHandshakeMs: null }, elsewhere, NOW_MS)).toEqual(anew);
    expect(peerChange({ ...known, lastHandshakeMs: null, endpoint: null }, elsewhere, NOW_MS)).toEqual(anew);
  });

  test("does not make a peer anew that keeps its endpoint, or that keeps silent by itself", () => {
    expect(peerChange({ ...known, lastHandshakeMs: null }, same, NOW_MS)).toEqual([]);
    const silent = { ...known, lastHandshakeMs: null, keepaliveS: 0 };
    expect(peerChange(silent, { ...elsewhere, keepaliveS: 0 }, NOW_MS)).toEqual([
      "peer",
      A,
      "endpoint",
      "203.0.113.7:4000",
    ]);
  });
});
