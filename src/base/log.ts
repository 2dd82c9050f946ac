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
  readonly #characterLimit: number;
  readonly #lines: string[] = [];
  #characters = 0;
  readonly #followers = new Set<(line: string) => void>();

  /** The newest line is kept however long it is. */
  constructor(limit = 2000, characterLimit = 500_000) {
    this.#limit = limit;
    this.#characterLimit = characterLimit;
  }

  push(line: string): void {
    this.#lines.push(line);
    this.#characters += line.length;
    while (this.#lines.length > this.#limit || (this.#characters > this.#characterLimit && this.#lines.length > 1)) {
      this.#characters -= this.#lines.shift()?.length ?? 0;
    }
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

/** Fields that never reach a sink, whatever a caller passes by mistake, and however deep: the end of their names. */
const SECRET_FIELD = /(?:secret|token|authorization|password|private_?key|preshared_?key|invite)$/i;
/** An invite in any text, such as a command line; what stands before its # is no secret. */
const INVITE = /(higgs:\/\/[^\s#]*#)[^\s"']+/gi;
const CENSOR = "[redacted]";
/** Deeper than any field of ours; a cycle ends here too. */
const MOST_DEPTH = 6;

/** A copy of a field's value that a sink may see: without secrets, raw bytes (which may be a key) and cycles. */
function censored(value: unknown, depth: number): unknown {
  if (typeof value === "string") return value.replace(INVITE, `$1${CENSOR}`);
  if (typeof value === "bigint") return value.toString();
  if (typeof value !== "object" || value === null) return value;
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) return `[${value.byteLength} bytes]`;
  if (value instanceof Date || value instanceof URL) return censored(value.toJSON(), depth);
  if (depth === 0) return "[too deep]";
  if (Array.isArray(value)) return value.map((entry) => censored(entry, depth - 1));
  if (!(value instanceof Error)) return isPlain(value) ? censoredFields(value, depth - 1) : `[${className(value)}]`;
  // An error's own text and its cause are not among its enumerable fields.
  const { name, message, stack, cause } = value;
  return censoredFields(
    Object.assign({}, value, { name, message, stack }, cause === undefined ? {} : { cause }),
    depth - 1,
  );
}

/** Only what was written as a record is looked into: a socket or a request would drag half the program into a line. */
function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === null || prototype === Object.prototype;
}

function className(value: object): string {
  return Object.prototype.toString.call(value).slice(8, -1);
}

function censoredFields(fields: object, depth: number): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(fields).map(([name, value]) => [name, SECRET_FIELD.test(name) ? CENSOR : censored(value, depth)]),
  );
}

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
    formatters: {
      level: (label: string) => ({ level: label }),
      log: (fields: object) => censoredFields(fields, MOST_DEPTH),
    },
    serializers: { err: (value: unknown) => value }, // errors are written by `censored`
  };
  return loggerOf(pino(base, destination));
}

/** Pino formats the fields of a line, but not those of a child. */
function loggerOf(inner: pino.Logger): Logger {
  return {
    error: (fields, message) => inner.error(fields, message),
    warn: (fields, message) => inner.warn(fields, message),
    info: (fields, message) => inner.info(fields, message),
    debug: (fields, message) => inner.debug(fields, message),
    trace: (fields, message) => inner.trace(fields, message),
    child: (fields) => loggerOf(inner.child(censoredFields(fields, MOST_DEPTH))),
  };
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
