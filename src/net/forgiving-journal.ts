// A role's journal where its disk may be full, damaged or read-only: what closes a machine or takes everything away must not wait for it.
import { errorText } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { Role } from "../proto/role.ts";
import type { Journal } from "./journal.ts";
import { openJournal } from "./journal-file.ts";

/** Opened at the first use. What it cannot keep is undone by fixed names all the same, and logged. */
export function forgivingJournal(options: { readonly path: string; readonly role: Role; readonly log: Logger }) {
  const { log } = options;
  let journal: Journal | null = null;
  const tried = async (work: Promise<void> | undefined): Promise<void> => {
    await work?.catch((thrown: unknown) => log.warn({ reason: errorText(thrown) }, "the journal does not know of it"));
  };
  return {
    entries: () => journal?.entries() ?? [],
    add: (entry) => tried(journal?.add(entry)),
    remove: (entry) => tried(journal?.remove(entry)),
    async open() {
      journal = await openJournal(options).catch((thrown: unknown) => {
        log.warn({ reason: errorText(thrown) }, "going on without the journal");
        return null;
      });
    },
  } satisfies Journal & { open(): Promise<void> };
}
