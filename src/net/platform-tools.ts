// The tools that a client or a node needs on the platforms other than Linux, and how they come.
import { ToolMissing } from "./exec.ts";

/** Each is a part of macOS but `wg`. */
export const MAC_TOOLS = ["pfctl", "route", "netstat", "ifconfig", "scutil", "wg"] as const;
/** The last two come with WireGuard for Windows. */
export const WINDOWS_TOOLS = ["powershell", "netsh", "icacls", "sc", "wg", "wireguard"] as const;

export function macToolMissing(tool: string): ToolMissing {
  return new ToolMissing(`Cannot find the tool "${tool}" on this machine.`, {
    code: "tool-missing",
    remedy:
      tool === "wg" ? "brew install wireguard-tools" : `"${tool}" is a part of macOS; is /sbin or /usr/sbin gone?`,
    detail: { tool },
  });
}
