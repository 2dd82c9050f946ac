// Progress on a terminal while a command waits: one line that tells what stands in the way, and is gone afterwards.
import { z } from "zod";
import { ask, type LocalRole } from "./local.ts";
import type { Terminal } from "./output.ts";

const statusShape = z.object({ state: z.string(), health: z.array(z.object({ text: z.string() }).loose()) }).loose();

/** Sooner than this nobody wonders. */
const FIRST_MS = 700;
const EVERY_MS = 500;

/** The result of `work`; meanwhile, on a terminal, the role's own words. */
export async function withProgress<T>(term: Terminal, target: LocalRole, work: Promise<T>): Promise<T> {
  if (!term.isTty) return await work;
  let shown = false;
  let asking = false;
  const tell = async (): Promise<void> => {
    if (asking) return;
    asking = true;
    try {
      const status = statusShape.parse(await ask(target, "status"));
      const why = status.health[0]?.text;
      term.status(`${status.state}…${why === undefined ? "" : ` ${why}`}`);
      shown = true;
    } catch {
      // the command itself will tell what is wrong
    } finally {
      asking = false;
    }
  };
  let timer = setTimeout(function again() {
    void tell();
    timer = setTimeout(again, EVERY_MS);
  }, FIRST_MS);
  try {
    return await work;
  } finally {
    clearTimeout(timer);
    if (shown) term.status("");
  }
}
