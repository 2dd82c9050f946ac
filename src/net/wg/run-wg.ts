// Running `wg`: the private key goes in by standard input only, and into no error.
import type { Exec } from "../exec.ts";
import { WireGuardFailed } from "./device.ts";
import { type DeviceDump, parseDump, type WgChange } from "./wg.ts";

/** A wireguard-go that hangs would hold us for the usual ten seconds. */
const TIMEOUT_MS = 5_000;

/** Throws WireGuardFailed when there is no such device. */
export async function readDump(exec: Exec, name: string, signal: AbortSignal): Promise<DeviceDump> {
  const result = await exec.run(["wg", "show", name, "dump"], { timeoutMs: TIMEOUT_MS, signal });
  if (result.code !== 0) throw failed(`read the WireGuard device "${name}"`, result.stderr);
  return parseDump(result.stdout);
}

/** Throws WireGuardFailed when there is no such device. */
export async function showTransfers(exec: Exec, name: string, signal: AbortSignal): Promise<string> {
  const result = await exec.run(["wg", "show", name, "transfer"], { timeoutMs: TIMEOUT_MS, signal });
  if (result.code !== 0) throw failed(`read the WireGuard device "${name}"`, result.stderr);
  return result.stdout;
}

/** Throws WireGuardFailed with what `wg` says; its arguments hold public keys only. */
export async function runWg(
  exec: Exec,
  options: { readonly name: string; readonly change: WgChange; readonly signal: AbortSignal },
): Promise<void> {
  const { name, change, signal } = options;
  const stdin = change.stdin === null ? {} : { stdin: change.stdin };
  const result = await exec.run(["wg", "set", name, ...change.args], { ...stdin, timeoutMs: TIMEOUT_MS, signal });
  if (result.code !== 0) throw failed(`change the WireGuard device "${name}"`, result.stderr);
}

function failed(what: string, stderr: string): WireGuardFailed {
  const said = stderr.trim().split("\n").at(-1) ?? "";
  return new WireGuardFailed(`Cannot ${what}: ${said || "wg failed without a word"}.`, { code: "wireguard-failed" });
}
