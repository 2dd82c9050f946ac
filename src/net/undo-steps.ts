// Putting changes back on any platform: what the journal says, then whatever bears the fixed names, never stopped by one failure.
import { errorText, HiggsError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { Role } from "../proto/role.ts";
import type { Journal, UndoEntry } from "./journal.ts";

/** Something could not be put back; everything else was, and what failed is still in the journal for another try. */
export class UndoIncomplete extends HiggsError {
  override readonly name = "UndoIncomplete";
}

/** Each puts back one kind of change, returns sentences of what it did, and is harmless when there is nothing. */
export type Step = (isJournaled: boolean) => Promise<readonly string[]>;
export type Kind = UndoEntry["kind"];

interface UndoPlan {
  readonly role: Role;
  /** Those of the platform; a journal that speaks of another was not written here. */
  readonly steps: Readonly<Partial<Record<Kind, Step>>>;
  /** For what no journal tells the order of. */
  readonly order: readonly Kind[];
  /** A kill switch that is on: closed first, and again at the end, if somebody opened it meanwhile; what holds it stays. */
  readonly kept: { readonly kinds: readonly Kind[]; readonly close: () => Promise<string> } | null;
  /** What to type for another try. */
  readonly remedy: string;
  /** True for a failure which shows that there cannot have been such a change; not asked for one in the journal. */
  readonly wasNeverThere: (thrown: unknown, kind: Kind) => Promise<boolean>;
}

/** Sentences of what was done. Throws UndoIncomplete after having tried everything. */
export async function runUndo(
  deps: { readonly journal: Journal; readonly log: Logger; readonly signal: AbortSignal },
  plan: UndoPlan,
): Promise<readonly string[]> {
  const { journal, log, signal } = deps;
  const done: string[] = [];
  const failures: string[] = [];
  await plan.kept?.close().catch((thrown: unknown) => {
    signal.throwIfAborted();
    log.warn({ error: errorText(thrown) }, "cannot close this machine before it is put back");
  });
  const journaled = journal.entries().map((entry) => entry.kind);
  const kinds = [...new Set([...journaled.toReversed(), ...plan.order])];
  for (const kind of kinds.filter((one) => plan.kept?.kinds.includes(one) !== true)) {
    signal.throwIfAborted();
    const step = plan.steps[kind];
    if (step === undefined) {
      failures.push(`The journal names "${kind}", which is another platform's.`);
      continue;
    }
    try {
      done.push(...(await step(journaled.includes(kind))));
    } catch (thrown) {
      signal.throwIfAborted();
      // What cannot be found out may have been there.
      const wasNeverThere = async (): Promise<boolean> => await plan.wasNeverThere(thrown, kind).catch(() => false);
      if (!journaled.includes(kind) && (await wasNeverThere())) continue;
      log.warn({ kind, error: errorText(thrown) }, "cannot put back a change");
      failures.push(errorText(thrown));
    }
  }
  try {
    if (plan.kept !== null) done.unshift(await plan.kept.close());
  } catch (thrown) {
    signal.throwIfAborted();
    failures.unshift(errorText(thrown));
  }
  if (failures.length === 0) return done;
  // One step may be for two kinds.
  throw new UndoIncomplete(`Cannot put everything back: ${[...new Set(failures)].join(" ")}`, {
    code: "undo-incomplete",
    remedy: plan.remedy,
    detail: { done, failures },
  });
}
