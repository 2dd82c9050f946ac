// Exit codes of the command line: the contract with scripts, and the one place that maps an error's code to one.
import { HiggsError } from "../base/errors.ts";

export const EXIT = {
  done: 0,
  failed: 1,
  usage: 2,
  notRunning: 3,
  notEnrolled: 4,
  notConnected: 5,
  degraded: 6,
  refused: 7,
  timedOut: 8,
  missing: 9,
  blocked: 10,
  interrupted: 130,
} as const;

const BY_CODE: Readonly<Record<string, number>> = {
  "bad-setting": EXIT.usage,
  "bad-name": EXIT.usage,
  "bad-exit": EXIT.usage,
  "bad-dns": EXIT.usage,
  "bad-proxy": EXIT.usage,
  "invite-mistyped": EXIT.usage,
  "invite-version": EXIT.usage,
  "wrong-role": EXIT.usage,
  "invite-wrong-role": EXIT.usage,
  usage: EXIT.usage,
  "not-running": EXIT.notRunning,
  "not-enrolled": EXIT.notEnrolled,
  "invite-expired": EXIT.notEnrolled,
  "invite-revoked": EXIT.notEnrolled,
  "invite-unknown": EXIT.notEnrolled,
  "invite-used": EXIT.notEnrolled,
  "machine-revoked": EXIT.notEnrolled,
  "machine-unknown": EXIT.notEnrolled,
  "not-connected": EXIT.notConnected,
  "no-exit": EXIT.notConnected,
  "rule-before-ours": EXIT.notConnected,
  "relay-quota": EXIT.notConnected,
  "server-unreachable": EXIT.notConnected,
  "proxy-unreachable": EXIT.notConnected,
  "proxy-login": EXIT.notConnected,
  "proxy-refused": EXIT.notConnected,
  "proxy-no-way": EXIT.notConnected,
  "proxy-not-http": EXIT.notConnected,
  offline: EXIT.notConnected,
  "policy-refused": EXIT.refused,
  blocked: EXIT.blocked,
  interrupted: EXIT.interrupted,
  timeout: EXIT.timedOut,
  "tool-timeout": EXIT.timedOut,
  "privilege-missing": EXIT.missing,
  "not-permitted": EXIT.missing,
  "run-dir-refused": EXIT.missing,
  "file-not-writable": EXIT.missing,
  "tool-missing": EXIT.missing,
  "nft-unusable": EXIT.missing,
  "nft-left": EXIT.missing,
  "iptables-unusable": EXIT.missing,
  "raw-frames-pass": EXIT.missing,
  "wireguard-unavailable": EXIT.missing,
  "tun-missing": EXIT.missing,
  "platform-unsupported": EXIT.missing,
  "platform-untested": EXIT.refused,
  "windows-no-exit": EXIT.missing,
};

export function exitCodeOf(thrown: unknown): number {
  // A code may be the server's own word, and be "toString".
  if (!(thrown instanceof HiggsError) || !Object.hasOwn(BY_CODE, thrown.code)) return EXIT.failed;
  return BY_CODE[thrown.code] ?? EXIT.failed;
}
