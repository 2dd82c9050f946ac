// Asking the running process of a role on this machine, and finding out which roles run.
import { access } from "node:fs/promises";
import { join } from "node:path";
import { HiggsError } from "../base/errors.ts";
import { callLocal, LocalApiError, streamLocal } from "../net/local-api.ts";
import { usualDirs } from "../net/platform.ts";
import { type AnyRole, UsageError } from "../roles/config.ts";
import { SOCKET } from "../roles/runtime.ts";
import { greet, unlessItHangs } from "./hanging.ts";

export type SocketKind = keyof typeof SOCKET;

export interface LocalRole {
  readonly role: AnyRole;
  readonly runDir: string;
}

/** Throws LocalApiError `not-running` with the command that starts the role, or what the process answered; RoleHangs for one that hangs. */
export async function ask(
  target: LocalRole,
  verb: string,
  options: { readonly body?: unknown; readonly socket?: SocketKind; readonly signal?: AbortSignal } = {},
): Promise<unknown> {
  try {
    const { body, signal = NEVER } = options;
    const path = join(target.runDir, SOCKET[options.socket ?? "everyday"]);
    const work = (until: AbortSignal): Promise<unknown> => callLocal(path, verb, { body, signal: until });
    return await (verb === "hello"
      ? greet(target, work, signal)
      : unlessItHangs(target, { work, hello: (until) => hello(target, until) }, signal));
  } catch (thrown) {
    throw explained(thrown, target);
  }
}

const NEVER = new AbortController().signal;

async function hello(target: LocalRole, signal: AbortSignal): Promise<unknown> {
  return await callLocal(join(target.runDir, SOCKET.everyday), "hello", { signal });
}

export async function* askStream(
  target: LocalRole,
  verb: string,
  options: { readonly body?: unknown; readonly signal?: AbortSignal } = {},
): AsyncGenerator<string> {
  try {
    yield* streamLocal(join(target.runDir, SOCKET.everyday), verb, options);
  } catch (thrown) {
    throw explained(thrown, target);
  }
}

const START: Readonly<Record<AnyRole, string>> = {
  server: "sudo higgs server",
  node: "sudo higgs node",
  client: "sudo higgs client up",
};

function explained(thrown: unknown, target: LocalRole): unknown {
  if (!(thrown instanceof HiggsError) || thrown.code !== "not-running") return thrown;
  return new LocalApiError(`Cannot ask the ${target.role}: it is not running on this machine.`, {
    code: "not-running",
    remedy: START[target.role],
    cause: thrown,
  });
}

export async function isRunning(target: LocalRole): Promise<boolean> {
  try {
    await greet(target, (signal) => hello(target, signal), NEVER);
    return true;
  } catch (thrown) {
    return thrown instanceof HiggsError && thrown.code !== "not-running";
  }
}

/** The one role among `candidates` that a command is about: the named one, or the only one that runs here. */
export async function chooseRole(
  candidates: readonly AnyRole[],
  options: { readonly role?: string; readonly run?: string },
): Promise<LocalRole> {
  const runDirOf = (role: AnyRole): string => options.run ?? process.env.HIGGS_RUN ?? `${usualDirs().run}/${role}`;
  if (options.role !== undefined) {
    const role = candidates.find((candidate) => candidate === options.role);
    if (role !== undefined) return { role, runDir: runDirOf(role) };
    throw new UsageError(`Cannot use the role "${options.role}" here.`, {
      code: "usage",
      remedy: `--role ${candidates.join(" | ")}`,
    });
  }
  const running: LocalRole[] = [];
  for (const role of candidates) {
    const target = { role, runDir: runDirOf(role) };
    if ((await exists(target.runDir)) && (await isRunning(target))) running.push(target);
  }
  const [first, second] = running;
  if (first !== undefined && second === undefined) return first;
  if (first !== undefined) {
    throw new UsageError(`Cannot tell which role is meant: ${running.map((one) => one.role).join(" and ")} run here.`, {
      code: "usage",
      remedy: `--role ${running.map((one) => one.role).join(" | ")}`,
    });
  }
  throw new LocalApiError(`Cannot ask anything: no ${candidates.join(" or ")} runs on this machine.`, {
    code: "not-running",
    remedy: candidates.map((role) => START[role]).join("   or   "),
  });
}

async function exists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    (thrown: unknown) => (thrown as { code?: string }).code === "EACCES",
  );
}
