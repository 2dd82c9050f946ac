// What a change to a WireGuard device is, in both of the languages in which it is told.
import { expect, test } from "bun:test";
import { dumpSettings, uapiSettings } from "../../../../src/net/wg/settings.ts";
import { parseDump } from "../../../../src/net/wg/wg.ts";

const OWN = `private_key=${"1".repeat(64)}\nlisten_port=51820\nfwmark=425984\n`;
const A = `public_key=${"a".repeat(64)}\nendpoint=198.51.100.1:51820\ntx_bytes=3\nrx_bytes=2\nallowed_ip=10.9.8.1/32\nallowed_ip=fd00::1/128\n`;
const B = `public_key=${"b".repeat(64)}\ntx_bytes=0\nrx_bytes=0\npersistent_keepalive_interval=25\nallowed_ip=10.9.8.2/32\n`;
const END = "protocol_version=1\nerrno=0\n\n";
const SAID = OWN + A + B + END;

test("uapiSettings() is the same whatever packets change, and in whatever order it is told", () => {
  const wanted = uapiSettings(SAID);
  for (const same of [
    OWN + B + A + END,
    SAID.replace("allowed_ip=10.9.8.1/32\nallowed_ip=fd00::1/128", "allowed_ip=fd00::1/128\nallowed_ip=10.9.8.1/32"),
    SAID.replace("tx_bytes=3", "tx_bytes=9999").replace("198.51.100.1", "203.0.113.9"),
    SAID.replace("tx_bytes=0", "last_handshake_time_sec=1763721000\nlast_handshake_time_nsec=5\ntx_bytes=0"),
  ]) {
    expect(uapiSettings(same)).toBe(wanted);
  }
});

test("uapiSettings() is another for a change of key, port, mark, a peer, its prefixes or its keepalive", () => {
  const all = [
    SAID,
    SAID.replace("1111", "2222"),
    SAID.replace("51820\nfwmark", "40404\nfwmark"),
    SAID.replace("fwmark=425984\n", ""),
    OWN + A + END,
    SAID.replace("10.9.8.1/32", "192.0.2.1/32"),
    SAID.replace("interval=25", "interval=0"),
  ].map(uapiSettings);
  expect(new Set(all).size).toBe(all.length);
  expect(all.some((one) => one.includes("1111"))).toBe(false); // no key is to be had from it
  expect(uapiSettings("")).toBe("");
});

test("dumpSettings() likewise", () => {
  const dump = (mark: string, endpoint: string, prefixes: string, sent: number): string =>
    `${"A".repeat(43)}=\t${"B".repeat(43)}=\t51820\t${mark}\nKApRC2cBHa7xmpBecPrwuEN9kTYbXS+qJmoM87W99ms=\t(none)\t${endpoint}\t${prefixes}\t0\t1\t${sent}\toff\n`;
  const of = (...args: Parameters<typeof dump>): string => dumpSettings(parseDump(dump(...args)));
  const wanted = of("0x68000", "198.51.100.1:1", "10.9.8.1/32,10.9.8.2/32", 0);
  expect(of("0x68000", "(none)", "10.9.8.2/32,10.9.8.1/32", 99)).toBe(wanted);
  expect(of("off", "198.51.100.1:1", "10.9.8.1/32,10.9.8.2/32", 0)).not.toBe(wanted);
  expect(of("0x68000", "198.51.100.1:1", "10.9.8.1/32", 0)).not.toBe(wanted);
});
