// Whether a role can be had on this platform at all, asked before anything is touched: an invite would be used up in vain.
import { HiggsError } from "../base/errors.ts";
import type { Role } from "../proto/role.ts";
import { type Platform, platformOf, requireAskedFor } from "./platform.ts";
import { type Consent, PlatformUnsupported } from "./system.ts";

/** `exit`: a node that shall offer one. Throws PlatformUnsupported, PlatformUntested, and where there is no exit, why. */
export function requireRole(
  role: Role,
  { untestedPlatform, exit }: Consent & { readonly exit?: unknown },
  platform: Platform | null = platformOf(),
): void {
  if (platform === "macos" && role === "node") throw noMacNode();
  if (platform === "windows" && role === "node" && exit === true) throw noExitOnWindows();
  requireAskedFor(platform, untestedPlatform, `run a ${role}`);
}

/** pf has nothing that ends by itself, so that what an exit permits would outlive a node that was killed, for ever. */
export function noMacNode(): PlatformUnsupported {
  return new PlatformUnsupported(
    "Cannot run a node on macOS: an exit whose process was killed could not be made to close by itself there.",
    { code: "platform-unsupported", remedy: "Run the node on a Linux machine." },
  );
}

/**
 * Windows Firewall filters what is for this machine or from it, and nothing that the machine passes on (RRAS team, "Which one to use -
 * Windows firewall or RRAS filters", 2007). New-NetNat would give clients the internet, and with it this machine's LAN.
 */
export function noExitOnWindows(): HiggsError {
  return new WindowsExitRefused(
    "Cannot isolate an exit on Windows: its firewall does not see the packets that it passes on, and clients would reach the LAN.",
    {
      code: "windows-no-exit",
      remedy: "Offer the exit from a Linux machine; this one takes part without: higgs node --no-exit",
    },
  );
}

class WindowsExitRefused extends HiggsError {
  override readonly name = "WindowsExitRefused";
}
