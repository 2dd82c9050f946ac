// Which WireGuard is used: the kernel's module, else the wireguard-go in this executable, else one on PATH.
import type { CarriedWireguardGo } from "higgs:carried-wireguard-go";
import { HiggsError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import type { Exec } from "../exec.ts";
import { requireTun } from "../privileges.ts";
import { unpackedCarried } from "./carried.ts";
import { type Implementation, InterfaceTaken, WireGuardFailed, WireGuardUnavailable } from "./device.ts";
import type { WireGuardHost } from "./host.ts";
import type { LinkState } from "./link.ts";

export type ImplementationKind = Implementation["kind"];

export interface Makers {
  readonly exec: Exec;
  readonly host: WireGuardHost;
  readonly log: Logger;
  readonly interfaceName: string;
  readonly libexecDir: string;
  readonly carried: CarriedWireguardGo | null;
  /** Only this one is tried. */
  readonly only?: ImplementationKind;
  /** False once the kernel said that it has none: asking makes it look for the module, each time anew. */
  hasKernel: boolean;
}

/** Makes the interface by the first that works. Throws WireGuardUnavailable when none does, saying why for each. */
export async function makeInterface(makers: Makers, signal: AbortSignal): Promise<Implementation> {
  const reasons: string[] = [];
  const kinds: readonly ImplementationKind[] =
    makers.only === undefined ? ["kernel", "carried", "path"] : [makers.only];
  for (const kind of kinds) {
    signal.throwIfAborted();
    const made = await makeBy(kind, makers, signal);
    if (typeof made !== "string") return made;
    makers.log.debug({ kind, reason: made }, "this WireGuard cannot be used");
    reasons.push(made);
  }
  throw new WireGuardUnavailable(`Cannot make a WireGuard tunnel: ${reasons.join("; ")}.`, {
    code: "wireguard-unavailable",
    remedy: "sudo apt install --no-install-recommends wireguard-go, or build higgs where Go is at hand",
    detail: { kinds: kinds.join(" ") },
  });
}

/** The reason as a string when this kind is not to be had; throws for what another kind would not mend. */
async function makeBy(kind: ImplementationKind, makers: Makers, signal: AbortSignal): Promise<Implementation | string> {
  switch (kind) {
    case "kernel":
      return await makeInKernel(makers, signal);
    case "carried":
      return await startCarried(makers, signal);
    case "path": {
      const path = makers.host.wireguardGoOnPath();
      if (path === null) return "there is no wireguard-go on PATH";
      await start(path, makers, signal);
      return { kind, path, version: await versionOf(path, makers.exec, signal) };
    }
  }
}

async function makeInKernel(makers: Makers, signal: AbortSignal): Promise<Implementation | string> {
  const none = "the kernel has no WireGuard";
  if (!makers.hasKernel) return none;
  const argv = ["ip", "link", "add", "dev", makers.interfaceName, "type", "wireguard"] as const;
  const { code, stderr } = await makers.exec.run(argv, { signal });
  if (code === 0) return { kind: "kernel" };
  if (/Operation not supported|Unknown device type|not supported/i.test(stderr)) {
    makers.hasKernel = false;
    return none;
  }
  throw failed(`Cannot make the interface "${makers.interfaceName}": ${lastLine(stderr)}.`);
}

async function startCarried(makers: Makers, signal: AbortSignal): Promise<Implementation | string> {
  if (makers.carried === null) return "this executable carries no wireguard-go";
  let path: string;
  try {
    path = await unpackedCarried(makers.carried, makers.libexecDir);
  } catch (thrown) {
    if (!(thrown instanceof HiggsError)) throw thrown;
    makers.log.warn({ reason: thrown.message }, "the carried wireguard-go cannot be used");
    return `the carried one is refused (${thrown.message})`;
  }
  await start(path, makers, signal);
  return { kind: "carried", path, version: makers.carried.version };
}

/** Resolves when the interface is there and its control socket is open. */
async function start(path: string, makers: Makers, signal: AbortSignal): Promise<void> {
  const { host, interfaceName } = makers;
  requireTun(await host.tunProblem());
  await clearSocket(makers);
  signal.throwIfAborted();
  const { code, said } = await host.launch([path, interfaceName]);
  if (code !== 0) throw failed(`Cannot start "${path}": ${lastLine(said)}.`);
  // The first process opened both before it ended, so this is no wait but a check that the daemon lives.
  if ((await host.socketState(interfaceName)) === "answers") return;
  throw failed(`Cannot use "${path}": it started, and its control socket answers nobody.`);
}

/** A socket that outlived its wireguard-go is in the way; one that answers serves the same name in another network. */
async function clearSocket(makers: Makers): Promise<void> {
  const { host, interfaceName, log } = makers;
  const state = await host.socketState(interfaceName);
  if (state === "absent") return;
  if (state === "stale") {
    log.info({ interface: interfaceName }, "removing a control socket that answers nobody");
    await host.removeSocket(interfaceName);
    return;
  }
  throw new InterfaceTaken(
    `Cannot make the tunnel "${interfaceName}": another wireguard-go on this machine serves that name.`,
    {
      code: "interface-taken",
      remedy: `sudo fuser -k /var/run/wireguard/${interfaceName}.sock`,
      detail: { interface: interfaceName },
    },
  );
}

/** What a device that is already there runs on. Its program is looked at, and run for its version only if it is one we would start. */
export async function livingImplementation(
  makers: Makers,
  link: LinkState,
  signal: AbortSignal,
): Promise<Implementation> {
  if (link.kind === "wireguard") return { kind: "kernel" };
  const path = makers.host.processOf(makers.interfaceName)?.path ?? "unknown";
  if (path.startsWith(`${makers.libexecDir}/wireguard-go-`)) {
    const isOurs = makers.carried !== null && path.endsWith(`-${makers.carried.sha256.slice(0, 12)}`);
    return { kind: "carried", path, version: isOurs && makers.carried !== null ? makers.carried.version : "unknown" };
  }
  const isOnPath = path === makers.host.wireguardGoOnPath();
  return { kind: "path", path, version: isOnPath ? await versionOf(path, makers.exec, signal) : "unknown" };
}

/** Its first line is "wireguard-go 0.0.20220316" or "wireguard-go v0.0.20220316". */
async function versionOf(path: string, exec: Exec, signal: AbortSignal): Promise<string> {
  const { stdout } = await exec.run([path, "--version"], { signal });
  return /^wireguard-go v?(\S+)/.exec(stdout)?.[1] ?? "unknown";
}

/** wireguard-go frames a hint about the kernel's WireGuard; what it failed at is said outside of the frame. */
function lastLine(said: string): string {
  const lines = said.split("\n").map((line) => line.trim());
  return lines.findLast((line) => line !== "" && !/^[┌│└]/u.test(line)) ?? "it ended without a word";
}

function failed(message: string): WireGuardFailed {
  return new WireGuardFailed(message, { code: "wireguard-failed" });
}
