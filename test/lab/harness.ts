// What the lab's tests share: the real binary, a lab around a test, a host's whole state as text, and waiting for a condition.
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { LabHost } from "../../src/lab/host.ts";
import { type Lab, type LabOptions, startLab } from "../../src/lab/lab.ts";
import { LabRefused, LabTimeout } from "../../src/lab/errors.ts";
import { labPrivilege } from "../../src/lab/privilege.ts";
import { smallInternet } from "../../src/lab/small-internet.ts";
import type { Topology } from "../../src/lab/topology.ts";
import { bundleForHosts, ROOT_DIR } from "./bundle.ts";
import { withServicePrograms, withServiceUsers } from "./daemon-user.ts";

/** The built binary: $HIGGS_BIN, or dist/higgs. Throws when it is not there, as a test without it would prove nothing. */
export function higgsBinary(): string {
  const path = resolve(process.env["HIGGS_BIN"] ?? join(ROOT_DIR, "dist/higgs"));
  if (existsSync(path)) return path;
  throw new LabRefused(`Cannot test the binary: "${path}" does not exist.`, {
    code: "lab-no-binary",
    remedy: "bun run build",
  });
}

/** Throws LabRefused with what to type where this machine does not let us build a lab: such a test must fail, not pass unseen. */
export async function requireLab(): Promise<void> {
  const privilege = await labPrivilege("bun test test/lab");
  if (privilege.kind === "root") return;
  const say = privilege.kind === "userns" ? "unshare -Ur bun test test/lab" : privilege.say;
  const why = privilege.kind === "userns" ? "this process is not root" : privilege.why;
  throw new LabRefused(`Cannot build the lab: ${why}. ${say}`, { code: "lab-refused", remedy: say });
}

/** A lab in which every host has the real binary as `higgs`, and the internet's services run from it. */
export async function startHiggsLab(topology: Topology = smallInternet(), options: LabOptions = {}): Promise<Lab> {
  await requireLab();
  return await withServicePrograms(async (programs) => {
    const lab = await startLab(topology, {
      ...options,
      programs: { higgs: higgsBinary(), ...programs, ...options.programs },
      serviceProgram: ["/usr/local/bin/higgs", "lab-service"],
    });
    return await withServiceUsers(lab);
  });
}

/** A lab whose services run from the sources, for tests of the lab itself; no host has a `higgs`. */
export async function startSourceLab(topology: Topology = smallInternet(), options: LabOptions = {}): Promise<Lab> {
  await requireLab();
  const dir = mkdtempSync(join(tmpdir(), "higgs-lab-service-"));
  try {
    const path = join(dir, "lab-service.js");
    await Bun.write(path, await serviceBundle());
    return await startLab(topology, {
      ...options,
      programs: { bun: process.execPath, "lab-service.js": path, ...options.programs },
      serviceProgram: ["/usr/local/bin/bun", "/usr/local/bin/lab-service.js"],
    });
  } finally {
    rmSync(dir, { recursive: true }); // the hosts have it on their disks
  }
}

/** One file, so that hosts need nothing of the project's own folder, which may lie where each host has its own. */
async function serviceBundle(): Promise<string> {
  const name = "lab-service-entry.ts";
  const service = JSON.stringify(join(ROOT_DIR, "src/lab/service.ts"));
  const source = `import { runLabService } from ${service};\nawait runLabService(process.argv[2] ?? "", process.argv[3] ?? "");\n`;
  return await bundleForHosts(name, source);
}

export interface UntilOptions {
  /** Default 30 000: real programs on a machine that has other work. */
  readonly timeoutMs?: number;
  readonly everyMs?: number;
  /** For the sentence when it does not come true. */
  readonly what?: string;
}

/** Resolves with the first value that is neither false, null nor undefined. Throws LabTimeout. */
export async function until<T>(
  condition: () => T | Promise<T>,
  options: UntilOptions = {},
): Promise<Exclude<T, false | null | undefined>> {
  const timeoutMs = options.timeoutMs ?? 30_000;
  const end = performance.now() + timeoutMs;
  for (;;) {
    const value = await condition();
    if (value !== false && value !== null && value !== undefined) return value as Exclude<T, false | null | undefined>;
    if (performance.now() > end) {
      const what = options.what ?? "the condition";
      throw new LabTimeout(`Cannot go on: ${what} was not met within ${timeoutMs / 1000} s.`, { code: "lab-timeout" });
    }
    await Bun.sleep(options.everyMs ?? 20);
  }
}

/** Where a host from which nft was taken keeps it for the tests: higgs does not look there. */
export const KEPT_NFT = "/root/kept-nft";
const LEGACY = "for t in iptables ip6tables; do $t-legacy-save; done | grep -v '^#'";

/** Each in a shell of the host, as globs are the host's own. The shell is not in the list of processes. */
const SNAPSHOT_PARTS: Readonly<Record<string, string>> = {
  ruleset: `if [ -x ${KEPT_NFT} ]; then ${KEPT_NFT} list ruleset; else nft list ruleset; fi`,
  // Asking makes nothing, and a table that the kernel once had to load it keeps.
  "iptables-legacy": `if [ -s /proc/net/ip_tables_names ]; then ${LEGACY}; fi`,
  "rules 4": "ip -4 rule show",
  "rules 6": "ip -6 rule show",
  "routes 4": "ip -4 route show table all | sort",
  "routes 6": "ip -6 route show table all | sort",
  addresses: "ip -o address show",
  links: "ip link show",
  // All of the network's but those that come with a part of the kernel, which another lab may load meanwhile.
  sysctls: "cd /proc/sys && grep -rH . net 2>/dev/null | grep -Ev '^net/(netfilter|bridge)/' | sort",
  "resolv.conf": "stat -c '%F %a %U %G %N' /etc/resolv.conf; cat /etc/resolv.conf",
  "etc and run":
    "find /etc /run /var/lib -xdev -not -type d -not -path '/run/lab/*' -not -path '/etc/alternatives/*' | sort",
  processes: [
    "set -- /proc/[0-9]*",
    `for p do c=$(tr '\\0' ' ' < $p/cmdline); [ $p = /proc/$$ ] || [ -z "$c" ] || echo "$c"; done 2>/dev/null | sort`,
  ].join("; "), // one that is dead and not yet reaped has no command line
};

/** Everything that higgs could leave behind on a host, as one text to be compared byte by byte. */
export async function snapshot(
  host: Pick<LabHost, "exec">,
  options: { readonly without?: readonly string[] } = {},
): Promise<string> {
  const parts: string[] = [];
  for (const [name, command] of Object.entries(SNAPSHOT_PARTS)) {
    if (options.without?.includes(name) === true) continue;
    const { stdout, stderr } = await host.exec(["sh", "-c", command]);
    parts.push(`== ${name}\n${steady(stdout)}${stderr}`);
  }
  return parts.join("\n");
}

/** Without what changes by itself: lifetimes and counters. */
function steady(text: string): string {
  return text
    .replaceAll(/ (expires|age|used|cache) \S+/g, "")
    .replaceAll(/packets \d+ bytes \d+/g, "packets N bytes N")
    .replaceAll(/^(:\S+ \S+) \[\d+:\d+\]$/gm, "$1 [N:N]")
    .replaceAll(/valid_lft \S+ preferred_lft \S+/g, "");
}

/** What a promise failed with, to be looked at; undefined when it did not. */
export async function failureOf(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
    return undefined;
  } catch (thrown) {
    return thrown;
  }
}
