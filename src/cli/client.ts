// `higgs client …`: the laptop.
import { Command } from "commander";
import { z } from "zod";
import { sleep } from "../base/async.ts";
import { HiggsError } from "../base/errors.ts";
import { boundedLog, ensureBackground } from "./background.ts";
import { durationMs, MOST_UP_MS, MOST_WAIT_MS } from "./duration.ts";
import { endIfRunning } from "./end-running.ts";
import { EXIT } from "./exit-codes.ts";
import { policyLines, policyShape } from "./exit-text.ts";
import { installCommand, uninstallCommand } from "./install.ts";
import { interruptSignal } from "./interrupt.ts";
import { ask, type LocalRole } from "./local.ts";
import { decide, lockdownCommand } from "./lockdown.ts";
import { logWriter } from "./log-text.ts";
import { joinCommand, joinIfAsked, leaveCommand, warnOfPassword } from "./machine-actions.ts";
import { addSettings, configOf, readConfig } from "./options.ts";
import { requireRole } from "../net/required-role.ts";
import { agoText, bytesText, table, type Terminal } from "./output.ts";
import { UsageError } from "../roles/config.ts";
import { type Context, jsonOption } from "./context.ts";
import { withProgress } from "./progress.ts";
import { printHealth } from "./status-text.ts";

const statusShape = z
  .object({
    state: z.string(),
    name: z.string().nullable(),
    lockdown: z.boolean(),
    exit: z.object({ name: z.string(), publicAddress: z.string().nullable() }).loose().nullable(),
    tunnel: z.object({ interface: z.string(), ipv4: z.string().nullable(), implementation: z.string() }).loose(),
    path: z
      .object({
        kind: z.string(),
        endpoint: z.string().nullable(),
        since: z.string().nullable(),
        rttMs: z.number().nullable(),
        reason: z.string(),
      })
      .loose()
      .nullable(),
    sharing: z.string().nullable().optional(),
    traffic: z.object({ rxBytes: z.number(), txBytes: z.number(), lastHandshake: z.string().nullable() }),
    health: z.array(z.object({ severity: z.string(), text: z.string(), remedy: z.string().nullable() }).loose()),
  })
  .loose();
type Status = z.infer<typeof statusShape>;

export function clientCommand(context: Context): Command {
  const { term } = context;
  const command = addSettings(new Command("client"), "client")
    .description("a laptop that goes out through an exit")
    .action(async (_options, self: Command) => run(term, self, false));
  command.addCommand(
    addSettings(new Command("run"), "client")
      .description("connects in the foreground, for a service (the same as higgs client)")
      .option("--background", "started by up: down ends the process")
      .action(async (options: { background?: boolean }, self: Command) => run(term, self, options.background === true)),
  );
  command.addCommand(joinCommand("client", context));
  command.addCommand(upCommand(context));
  command.addCommand(
    addSettings(new Command("down"), "client", ["run"])
      .description("disconnects and puts everything back")
      .action(async (_options, self: Command) => {
        const { run: runDir } = await configOf("client", self);
        const target = { role: "client" as const, runDir };
        const lockdown = await isLockedDown(target);
        if (!(await endIfRunning(target, "down", interruptSignal()))) {
          term.out("Not connected: no client runs here.");
          return;
        }
        term.out("Disconnected; routes and DNS are as they were.");
        if (!lockdown) return;
        term.out(`  ${term.paint("red", "!")} The kill switch is on: no internet until the next connection.`);
        term.out(`    ${term.paint("dim", "→")} ${LOCKDOWN_OFF}`);
      }),
  );
  command.addCommand(statusCommand(context));
  command.addCommand(waitCommand(context));
  command.addCommand(exitCommand(context));
  command.addCommand(lockdownCommand(context));
  command.addCommand(leaveCommand("client", context));
  command.addCommand(installCommand("client", context));
  command.addCommand(uninstallCommand("client", context));
  return command;
}

async function run(term: Terminal, self: Command, background: boolean): Promise<void> {
  const resolved = await readConfig("client", self);
  const { config } = resolved;
  requireRole("client", config);
  warnOfPassword(resolved, term);
  await joinIfAsked("client", config, term);
  const { runClient } = await import("../roles/client.ts");
  const write = logWriter(config.logFormat, term);
  const bounded = background ? boundedLog(write, process.stderr.fd) : write;
  await runClient(config, { background }, { write: bounded, onReady: () => undefined });
}

function upCommand({ term, setExitCode }: Context): Command {
  return addSettings(new Command("up"), "client")
    .description("connects, prints the path, and returns")
    .option("--no-lan", "closes the LAN again")
    .option("--timeout <duration>", "how long to wait for the connection", "20s")
    .addOption(jsonOption())
    .action(async (flags: { timeout: string; json?: boolean }, self: Command) => {
      const timeoutMs = durationMs(flags.timeout, MOST_UP_MS);
      const resolved = await readConfig("client", self);
      const { config } = resolved;
      requireRole("client", config);
      warnOfPassword(resolved, term);
      await joinIfAsked("client", config, term);
      const signal = interruptSignal();
      const target = await ensureBackground(resolved, { timeoutMs, signal });
      if (config.lockdown === true) await decide(self, { lockdown: true });
      if (config.lan !== null) await decide(self, { lan: config.lan });
      const body = { exit: config.exit, timeoutMs };
      const answer = await withProgress(term, target, ask(target, "up", { body, signal })).catch(
        async (thrown: unknown) => {
          if (await isLockedDown(target))
            term.err(`The kill switch is on: no internet meanwhile. Off: ${LOCKDOWN_OFF}`);
          throw thrown;
        },
      );
      show(term, answer, flags.json === true, setExitCode);
    });
}

const LOCKDOWN_OFF = "sudo higgs client lockdown off";

/** False for a client of a version that does not tell. */
async function isLockedDown(target: LocalRole): Promise<boolean> {
  const answer = await ask(target, "lockdown-status").catch(() => null);
  return z.object({ lockdown: z.boolean() }).safeParse(answer).data?.lockdown === true;
}

/** Of the running client; without one, why this machine is closed all the same. Throws LocalApiError `not-running`. */
async function statusOf(target: LocalRole, stateDir: string, signal: AbortSignal): Promise<unknown> {
  try {
    return await ask(target, "status", { signal });
  } catch (thrown) {
    if (!(thrown instanceof HiggsError) || thrown.code !== "not-running") throw thrown;
    const { stoppedStatus } = await import("../roles/stopped-status.ts");
    const status = await stoppedStatus(stateDir, signal);
    if (status === null) throw thrown;
    return status;
  }
}

function statusCommand({ term, setExitCode }: Context): Command {
  return addSettings(new Command("status"), "client", ["run", "state"])
    .description("whether this machine is connected, through which exit, and by which path")
    .option("--watch", "again every second, until interrupted")
    .addOption(jsonOption())
    .action(async (flags: { watch?: boolean; json?: boolean }, self: Command) => {
      const { run: runDir, state } = await configOf("client", self);
      const target = { role: "client" as const, runDir };
      const signal = interruptSignal();
      if (flags.watch !== true) {
        show(term, await statusOf(target, state, signal), flags.json === true, setExitCode);
        return;
      }
      while (!signal.aborted) {
        if (flags.json !== true) term.clear();
        show(term, await statusOf(target, state, signal), flags.json === true, setExitCode);
        await sleep(1000, signal);
      }
    });
}

function waitCommand({ term, setExitCode }: Context): Command {
  return addSettings(new Command("wait"), "client", ["run"])
    .description("returns when connected, or when packets to the exit go directly")
    .option("--for <state>", "connected | direct", "connected")
    .option("--timeout <duration>", "how long to wait", "60s")
    .addOption(jsonOption())
    .action(async (flags: { for: string; timeout: string; json?: boolean }, self: Command) => {
      if (flags.for !== "connected" && flags.for !== "direct") {
        throw new UsageError(`Cannot wait for "${flags.for}": it is neither connected nor direct.`, {
          code: "usage",
          remedy: "higgs client wait --for direct",
        });
      }
      const { run: runDir } = await configOf("client", self);
      const target = { role: "client" as const, runDir };
      const body = { for: flags.for, timeoutMs: durationMs(flags.timeout, MOST_WAIT_MS) };
      const answer = await withProgress(term, target, ask(target, "wait", { body, signal: interruptSignal() }));
      show(term, answer, flags.json === true, setExitCode);
    });
}

const exitsShape = z.object({
  exits: z.array(
    z.object({
      name: z.string(),
      online: z.boolean(),
      ready: z.boolean(),
      ipv6: z.boolean(),
      publicAddress: z.string().nullable(),
      inUse: z.boolean(),
      missing: z.array(z.string()),
      policy: policyShape.nullable().default(null),
    }),
  ),
});

function exitCommand({ term }: Context): Command {
  const command = new Command("exit").description("the exits that this machine may use");
  command.addCommand(
    addSettings(new Command("list"), "client", ["run"])
      .description("the exits, which one is in use, and what each lets out and keeps")
      .addOption(jsonOption())
      .action(async (flags: { json?: boolean }, self: Command) => {
        const { run: runDir } = await configOf("client", self);
        const answer = await ask({ role: "client", runDir }, "exit-list");
        if (flags.json === true) {
          term.out(JSON.stringify(answer));
          return;
        }
        const { exits } = exitsShape.parse(answer);
        if (exits.length === 0) term.out("No exit is known here. Connected? higgs client status");
        const rows = exits.map((exit) => [
          exit.inUse ? "*" : " ",
          exit.name,
          exit.ready ? "ready" : exit.online ? "not ready" : "offline",
          exit.publicAddress ?? "-",
          exit.ipv6 ? "IPv4 IPv6" : "IPv4",
          exit.missing.join(" "),
        ]);
        for (const [i, line] of table(rows).entries()) {
          term.out(line);
          const policy = exits[i]?.policy ?? null;
          if (policy !== null) for (const sentence of policyLines(policy)) term.out(`      ${sentence}`);
        }
      }),
  );
  command.addCommand(
    addSettings(new Command("use").argument("<name>", "NAME | auto | none"), "client", ["run"])
      .description("chooses the exit, now and for the next time")
      .action(async (name: string, _options, self: Command) => {
        const { run: runDir } = await configOf("client", self);
        await ask({ role: "client", runDir }, "exit-use", { body: { exit: name } });
        term.out(`The exit is now: ${name}`);
      }),
  );
  return command;
}

function show(term: Terminal, answer: unknown, json: boolean, setExitCode: Context["setExitCode"]): void {
  const status = statusShape.parse(answer);
  if (json) term.out(JSON.stringify(answer));
  else printStatus(term, status);
  const isConnected = status.state === "connected";
  if (status.state === "blocked" || (status.lockdown && !isConnected)) setExitCode(EXIT.blocked);
  else if (!isConnected) setExitCode(EXIT.notConnected);
  else if (status.health.length > 0) setExitCode(EXIT.degraded);
  else setExitCode(EXIT.done);
}

/** `since 3 min ago, round trip 1.2 ms: direct path by … answered`. */
function pathText({ since, rttMs, reason }: NonNullable<Status["path"]>): string {
  const parts = [since === null ? null : `since ${agoText(since)}`, rttMs === null ? null : `round trip ${rttMs} ms`];
  return `${parts.filter((part) => part !== null).join(", ") || "for now"}: ${reason}`;
}

function printStatus(term: Terminal, status: Status): void {
  const { exit, path, traffic, tunnel } = status;
  const colour = status.state === "connected" ? "green" : status.state === "blocked" ? "red" : "yellow";
  const parts = [term.paint(colour, status.state)];
  if (exit !== null) parts.push(`exit ${term.paint("bold", exit.name)} (${exit.publicAddress ?? "-"})`);
  else if (status.state === "connected") parts.push("no exit");
  if (path !== null) parts.push(`path ${path.kind}${path.endpoint === null ? "" : ` by ${path.endpoint}`}`);
  if (status.lockdown) parts.push("kill switch on");
  term.out(parts.join("; "));
  const rows = [["tunnel", `${tunnel.interface} ${tunnel.ipv4 ?? "-"} (WireGuard: ${tunnel.implementation})`]];
  if (path !== null) rows.push(["path", pathText(path)]);
  if (status.sharing === "bridge") rows.push(["port", "shared by a bridge in higgs itself, as nft does no work here"]);
  if (exit !== null) {
    rows.push([
      "traffic",
      `received ${bytesText(traffic.rxBytes)}, sent ${bytesText(traffic.txBytes)}, handshake ${agoText(traffic.lastHandshake)}`,
    ]);
  }
  for (const line of table(rows)) term.out(`  ${line}`);
  printHealth(term, status.health);
}
