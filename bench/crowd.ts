// The parent's end of a process full of machines (`crowd.program.ts`).
import { join } from "node:path";
import type { ServerPlace } from "./light-machine.ts";

export type Order =
  | {
      readonly do: "enrol";
      readonly place: ServerPlace;
      /** One for every hundred machines. */
      readonly invites: readonly string[];
      /** Number of the first machine; it makes names and addresses. */
      readonly first: number;
      readonly count: number;
    }
  /** The first so many machines connect to the relay. */
  | { readonly do: "relay"; readonly upTo: number }
  | { readonly do: "control" }
  /** The first machine asks for a session with that one; without a peer, waits for somebody else to ask. */
  | { readonly do: "connect"; readonly peer: string }
  | { readonly do: "send"; readonly packets: number; readonly seconds: number }
  | { readonly do: "count" }
  | { readonly do: "presence"; readonly index: number }
  | { readonly do: "delays" };

export interface Answer {
  readonly error?: string;
  readonly ids?: readonly string[];
  readonly session?: number;
  readonly framesOut?: number;
  readonly bytesIn?: number;
  /** From the first frame to the last. */
  readonly spanMs?: number;
  /** Milliseconds from each change to its delta. */
  readonly delays?: readonly number[];
}

export interface Crowd extends AsyncDisposable {
  readonly pid: number;
  /** One order at a time. Throws what went wrong there. */
  tell(order: Order): Promise<Answer>;
}

export function startCrowd(): Crowd {
  let waiting: PromiseWithResolvers<Answer> | null = null;
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "crowd.program.ts")], {
    stdin: "ignore",
    stdout: "inherit",
    stderr: "inherit",
    ipc(answer: Answer) {
      if (answer.error === undefined) waiting?.resolve(answer);
      else waiting?.reject(new Error(answer.error));
    },
    onExit: () => waiting?.reject(new Error("Cannot go on: a process of machines is gone.")),
  });
  return {
    pid: child.pid,
    tell(order) {
      waiting = Promise.withResolvers<Answer>();
      child.send(order);
      return waiting.promise;
    },
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
}
