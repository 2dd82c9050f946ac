// Whether this process may change the machine's network, and what to type when it may not.
import { constants, readFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { z } from "zod";
import { HiggsError } from "../base/errors.ts";
import { type Exec, systemExec } from "./exec.ts";
import { askScript } from "./powershell.ts";

export class PrivilegeMissing extends HiggsError {
  override readonly name = "PrivilegeMissing";
}

export interface PrivilegeFacts {
  /** CAP_NET_ADMIN is among the effective capabilities (capabilities(7)). */
  readonly netAdmin: boolean;
  /** Null: /dev/net/tun can be opened; otherwise why not. Only a machine without WireGuard in its kernel needs it. */
  readonly tunProblem: "absent" | "refused" | null;
}

/** Bit number in CapEff, include/uapi/linux/capability.h. */
const CAP_NET_ADMIN = 12n;
const TUN_PATH = "/dev/net/tun";

export async function readPrivileges(): Promise<PrivilegeFacts> {
  // macOS has no capabilities: root may, nobody else.
  if (process.platform === "darwin") return { netAdmin: process.getuid?.() === 0, tunProblem: null };
  if (process.platform === "win32") return { netAdmin: await isElevated(systemExec()), tunProblem: null };
  return { netAdmin: hasNetAdmin(readFileSync("/proc/self/status", "utf8")), tunProblem: await tunProblem(TUN_PATH) };
}

/** Windows: whether this process has the rights that its person has (User Account Control). */
export async function isElevated(exec: Exec): Promise<boolean> {
  return (await askScript(exec, "read-privileges", { schema: z.object({ elevated: z.boolean() }) })).elevated;
}

/** Throws PrivilegeMissing. */
export function requireElevated(elevated: boolean, command: string): void {
  if (elevated) return;
  throw new PrivilegeMissing("Cannot change this machine's network: this process is not elevated.", {
    code: "privilege-missing",
    remedy: `In a prompt that was started with "Run as administrator": ${command}`,
    detail: { command },
  });
}

/** From the text of /proc/PID/status. */
export function hasNetAdmin(status: string): boolean {
  const hex = /^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1];
  return hex !== undefined && ((BigInt(`0x${hex}`) >> CAP_NET_ADMIN) & 1n) === 1n;
}

/** Opening alone makes no interface. */
export async function tunProblem(path: string): Promise<"absent" | "refused" | null> {
  try {
    const file = await open(path, constants.O_RDWR);
    await file.close();
    return null;
  } catch (thrown) {
    const code = thrown instanceof Error && "code" in thrown ? thrown.code : "";
    // ENODEV and ENXIO: the file is there and the kernel has no driver for it.
    return code === "EACCES" || code === "EPERM" ? "refused" : "absent";
  }
}

/** Throws PrivilegeMissing. `command` is what the person typed, to be typed again with sudo. */
export function requireNetAdmin(facts: PrivilegeFacts, command: string): void {
  if (process.platform === "win32") return requireElevated(facts.netAdmin, command);
  if (facts.netAdmin) return;
  const lack =
    process.platform === "darwin" ? "this process is not root's" : "this process lacks the capability CAP_NET_ADMIN";
  throw new PrivilegeMissing(`Cannot change this machine's network: ${lack}.`, {
    code: "privilege-missing",
    remedy: `sudo ${command}`,
    detail: { capability: "CAP_NET_ADMIN" },
  });
}

/** Throws PrivilegeMissing. For a device that runs in userspace. */
export function requireTun(problem: PrivilegeFacts["tunProblem"]): void {
  if (problem === null) return;
  const message =
    problem === "refused"
      ? `Cannot make a tunnel: this process may not open ${TUN_PATH}.`
      : `Cannot make a tunnel: this machine has no ${TUN_PATH}.`;
  throw new PrivilegeMissing(message, {
    code: "privilege-missing",
    remedy: "sudo modprobe tun; in a container: --device /dev/net/tun --cap-add NET_ADMIN",
    detail: { path: TUN_PATH, problem },
  });
}
