// The one ancestor of every deliberate failure: a stable code, a sentence for people, a remedy, and detail for logs.

export interface HiggsErrorOptions {
  /** Stable, kebab-case; callers switch on it, and the CLI and the API map it to an exit code or a status. */
  readonly code: string;
  /** What would mend it, as a sentence or a command to type. */
  readonly remedy?: string;
  /** Facts for the log. Never a secret. */
  readonly detail?: Readonly<Record<string, unknown>>;
  readonly cause?: unknown;
}

/** Subclasses override `name` with a literal, because minifiers and bundlers may rename classes. */
export abstract class HiggsError extends Error {
  abstract override readonly name: string;
  readonly code: string;
  readonly remedy: string | undefined;
  readonly detail: Readonly<Record<string, unknown>>;

  constructor(message: string, options: HiggsErrorOptions) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = options.code;
    this.remedy = options.remedy;
    this.detail = options.detail ?? {};
  }
}

/** The text of anything that was thrown, for a log field or for the end of a sentence. */
export function errorText(thrown: unknown): string {
  if (thrown instanceof Error) return thrown.message;
  if (typeof thrown === "string") return thrown;
  try {
    return JSON.stringify(thrown) ?? String(thrown);
  } catch {
    return typeof thrown; // a cycle or a bigint: nothing that JSON can say
  }
}
