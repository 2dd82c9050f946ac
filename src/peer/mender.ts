// Has a tunnel put back what somebody else changed: once for all that happens meanwhile, however many events tell of it.
import { errorText } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";

/** "rules" looks at the rules alone, which costs less. */
export type MendWhat = "all" | "rules";

export class Mender {
  readonly #mend: (what: MendWhat) => Promise<unknown>;
  readonly #log: Logger;
  readonly #signal: AbortSignal;
  #next: MendWhat | null = null;
  #isBusy = false;

  /** `signal`: after it nothing is mended, and no failure told. */
  constructor(deps: {
    readonly mend: (what: MendWhat) => Promise<unknown>;
    readonly log: Logger;
    readonly signal: AbortSignal;
  }) {
    this.#mend = deps.mend;
    this.#log = deps.log;
    this.#signal = deps.signal;
  }

  poke(what: MendWhat): void {
    this.#next = what === "all" || this.#next === "all" ? "all" : "rules";
    if (!this.#isBusy) void this.#run();
  }

  async #run(): Promise<void> {
    this.#isBusy = true;
    while (this.#next !== null && !this.#signal.aborted) {
      const what = this.#next;
      this.#next = null;
      try {
        await this.#mend(what);
      } catch (thrown) {
        if (!this.#signal.aborted) this.#log.warn({ reason: errorText(thrown) }, "tunnel not mended");
      }
    }
    this.#isBusy = false;
  }
}
