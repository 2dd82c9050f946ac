// A signal that aborts when the person presses Ctrl-C, for commands that wait.
import { HiggsError } from "../base/errors.ts";

export class Interrupted extends HiggsError {
  override readonly name = "Interrupted";
}

export function interruptSignal(): AbortSignal {
  const controller = new AbortController();
  const stop = (): void => controller.abort(new Interrupted("Interrupted.", { code: "interrupted" }));
  process.once("SIGINT", stop);
  process.once("SIGTERM", stop);
  return controller.signal;
}
