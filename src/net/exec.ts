// Running the platform's own tools: argv only, never a shell, always with a deadline.
import { HiggsError } from "../base/errors.ts";
import { windowsToolDirs, windowsToolEnvironment } from "./windows-names.ts";

export interface ExecResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface ExecOptions {
  /** Written to the tool's standard input, which is then closed. */
  readonly stdin?: string;
  /** Default 10 s; the tool is killed after it. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

export interface Exec {
  /** Resolves with whatever exit code; throws ToolMissing, ToolTimeout, or the signal's reason. */
  run(argv: readonly [string, ...string[]], options?: ExecOptions): Promise<ExecResult>;
}

export class ToolMissing extends HiggsError {
  override readonly name = "ToolMissing";
}

export class ToolTimeout extends HiggsError {
  override readonly name = "ToolTimeout";
}

export class ToolFailed extends HiggsError {
  override readonly name = "ToolFailed";
}

/** Which Debian package brings a tool. */
const PACKAGES: Readonly<Record<string, string>> = {
  wg: "wireguard-tools",
  nft: "nftables",
  iptables: "iptables",
  ip: "iproute2",
  resolvectl: "systemd-resolved",
  conntrack: "conntrack",
  ping: "iputils-ping",
};

/** Services and root shells of some systems have no sbin in PATH, or no PATH at all. */
const SEARCH = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"];
const DEFAULT_TIMEOUT_MS = 10_000;

const IS_WINDOWS = process.platform === "win32";

export function toolMissing(tool: string): ToolMissing {
  if (IS_WINDOWS) {
    return new ToolMissing(`Cannot find the tool "${tool}" on this machine.`, {
      code: "tool-missing",
      remedy:
        "wg and wireguard come with WireGuard for Windows, 0.5 or newer, from wireguard.com; the others with Windows.",
      detail: { tool },
    });
  }
  const known = PACKAGES[tool];
  return new ToolMissing(`Cannot find the tool "${tool}" on this machine.`, {
    code: "tool-missing",
    remedy: known === undefined ? `Install "${tool}".` : `sudo apt install --no-install-recommends ${known}`,
    detail: { tool },
  });
}

/** The absolute path of a tool, or null. */
export function findTool(tool: string): string | null {
  if (IS_WINDOWS) return Bun.which(tool, { PATH: windowsToolDirs(process.env).join(";") });
  return Bun.which(tool, { PATH: [process.env.PATH ?? "", ...SEARCH].filter((part) => part !== "").join(":") });
}

export function systemExec(): Exec {
  return {
    async run(argv, options = {}) {
      const path = findTool(argv[0]);
      if (path === null) throw toolMissing(argv[0]);
      const timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
      options.signal?.throwIfAborted();
      const child = Bun.spawn([path, ...argv.slice(1)], {
        stdin: options.stdin === undefined ? "ignore" : new TextEncoder().encode(options.stdin),
        stdout: "pipe",
        stderr: "pipe",
        // Messages and number formats that are parsed must not follow the user's language.
        env: IS_WINDOWS ? windowsToolEnvironment(process.env) : { PATH: SEARCH.join(":"), LC_ALL: "C" },
        timeout: timeoutMs,
        killSignal: "SIGKILL",
        ...(options.signal === undefined ? {} : { signal: options.signal }),
      });
      const started = performance.now();
      const [stdout, stderr, code] = await Promise.all([
        new Response(child.stdout).text(),
        new Response(child.stderr).text(),
        child.exited,
      ]);
      options.signal?.throwIfAborted();
      if (child.signalCode === "SIGKILL" && performance.now() - started >= timeoutMs) {
        throw new ToolTimeout(`Cannot run "${argv[0]}": it did not end within ${timeoutMs / 1000} s.`, {
          code: "tool-timeout",
          detail: { argv: argv.join(" ") },
        });
      }
      return { code, stdout, stderr };
    },
  };
}

/** The tool's standard output; throws ToolFailed for an exit code other than 0. */
export async function output(exec: Exec, argv: readonly [string, ...string[]], options?: ExecOptions): Promise<string> {
  const result = await exec.run(argv, options);
  if (result.code !== 0) {
    throw new ToolFailed(
      `Cannot do "${argv.slice(0, 4).join(" ")}": ${result.stderr.trim() || `exit code ${result.code}`}.`,
      {
        code: "tool-failed",
        detail: { argv: argv.join(" "), code: result.code, stderr: result.stderr, stdin: options?.stdin ?? "" },
      },
    );
  }
  return result.stdout;
}
