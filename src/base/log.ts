// Structured logging: constant messages with fields, to stdout or stderr, and the last lines kept for `higgs logs`.
import pino from "pino";

export type LogLevel = "error" | "warn" | "info" | "debug" | "trace";
export const LOG_LEVELS: readonly LogLevel[] = ["error", "warn", "info", "debug", "trace"];

export interface Logger {
  error(fields: Readonly<Record<string, unknown>>, message: string): void;
  warn(fields: Readonly<Record<string, unknown>>, message: string): void;
  info(fields: Readonly<Record<string, unknown>>, message: string): void;
  debug(fields: Readonly<Record<string, unknown>>, message: string): void;
  trace(fields: Readonly<Record<string, unknown>>, message: string): void;
  child(fields: Readonly<Record<string, unknown>>): Logger;
}

/** The last lines of a process, bounded; followers are told of each new one. */
export class LogRing {
  readonly #limit: number;
  readonly #lines: string[] = [];
  readonly #followers = new Set<(line: string) => void>();

  constructor(limit = 2000) {
    this.#limit = limit;
  }

  push(line: string): void {
    this.#lines.push(line);
    if (this.#lines.length > this.#limit) this.#lines.splice(0, this.#lines.length - this.#limit);
    for (const follower of this.#followers) follower(line);
  }

  lines(): readonly string[] {
    return [...this.#lines];
  }

  /** Returns what ends the following. */
  follow(follower: (line: string) => void): () => void {
    this.#followers.add(follower);
    return () => this.#followers.delete(follower);
  }
}

export interface LogOptions {
  readonly level: LogLevel;
  /** Takes one line of JSON without its line end. */
  readonly write: (line: string) => void;
  readonly ring?: LogRing;
}

/** Field names that never reach a sink, whatever a caller passes by mistake. */
const SECRET_FIELDS = ["secret", "token", "authorization", "privateKey", "invite", "*.secret", "*.token", "*.privateKey"];

export function createLogger(options: LogOptions): Logger {
  const destination = {
    write(text: string): void {
      const line = text.endsWith("\n") ? text.slice(0, -1) : text;
      options.ring?.push(line);
      options.write(line);
    },
  };
  const base = {
    level: options.level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    redact: { paths: SECRET_FIELDS, censor: "[redacted]" },
  };
  return pino(base, destination);
}

const nothing = (): void => undefined;
/** Says nothing; for callers that have no log yet, such as a single command. */
export const silentLogger: Logger = {
  error: nothing,
  warn: nothing,
  info: nothing,
  debug: nothing,
  trace: nothing,
  child: () => silentLogger,
};

/** Keys and ids in logs: enough to recognise, too little to use. */
export function short(text: string): string {
  return text.length <= 12 ? text : `${text.slice(0, 8)}…`;
}
