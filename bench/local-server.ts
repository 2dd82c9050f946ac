// A real `higgs server` on loopback, whose proxy we pretend to be: a crowd then comes from many addresses, and no rate limit is touched.
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { probeLeaf, type ServerPin } from "../src/net/tls.ts";
import type { Role } from "../src/proto/role.ts";
import { higgsBinary } from "./network.ts";

export interface LocalServer extends AsyncDisposable {
  readonly pid: number;
  readonly port: number;
  readonly pin: ServerPin;
  /** Each for at most 100 machines. */
  invites(role: Role, machines: number): Promise<string[]>;
}

const MOST_USES = 100;

export async function localServer(signal: AbortSignal): Promise<LocalServer> {
  const dir = mkdtempSync(join(tmpdir(), "higgs-bench-"));
  const places = ["--state", join(dir, "state"), "--run", join(dir, "run")];
  const port = await freePort();
  const flags = ["--listen", `127.0.0.1:${port}`, "--public", `127.0.0.1:${port}`, "--trusted-proxy", "127.0.0.1"];
  const quiet = ["--stun-port", String(await freePort()), "--log-level", "error"];
  const child = Bun.spawn([higgsBinary(), "server", ...places, ...flags, ...quiet], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "inherit",
    cwd: "/",
  });
  const end = async (): Promise<void> => {
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), 3_000);
    await child.exited;
    clearTimeout(timer);
    rmSync(dir, { recursive: true });
  };
  try {
    await firstOutput(child.stdout);
    signal.throwIfAborted();
    const pin = await probeLeaf({ address: "127.0.0.1", port, serverName: "127.0.0.1" }, signal);
    return {
      pid: child.pid,
      port,
      pin,
      async invites(role, machines) {
        const made: string[] = [];
        for (let left = machines; left > 0; left -= MOST_USES) {
          const uses = ["--uses", String(Math.min(left, MOST_USES))];
          const argv = [higgsBinary(), "server", "invite", role, "--run", join(dir, "run"), ...uses, "--json"];
          const { stdout } = Bun.spawnSync(argv, { cwd: "/" });
          made.push((JSON.parse(stdout.toString()) as { invite: string }).invite);
        }
        return made;
      },
      [Symbol.asyncDispose]: end,
    };
  } catch (thrown) {
    await end();
    throw thrown;
  }
}

/** The server says where it runs once it listens. */
async function firstOutput(stream: ReadableStream<Uint8Array>): Promise<void> {
  const reader = stream.getReader();
  const { done } = await reader.read();
  if (done) throw new Error("Cannot measure: the server ended at once.");
  reader.releaseLock();
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once("error", reject);
    probe.listen(0, "127.0.0.1", () => {
      const address = probe.address();
      const port = address !== null && typeof address === "object" ? address.port : 0;
      probe.close(() => resolve(port));
    });
  });
}
