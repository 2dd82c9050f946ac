// The demo at work: a little internet comes up, each step is announced and shown, and nothing is left behind.
import { HiggsError } from "../base/errors.ts";
import { type Lab, startLab } from "../lab/lab.ts";
import { labPrivilege, reexecInUserNamespace } from "../lab/privilege.ts";
import { smallInternet } from "../lab/small-internet.ts";
import { requireLinux } from "../net/os.ts";
import { self } from "./background.ts";
import { DEMO_ZONE, demoSteps } from "./demo-steps.ts";
import { interruptSignal } from "./interrupt.ts";
import type { Terminal } from "./output.ts";
import type { Context } from "./context.ts";

export class DemoError extends HiggsError {
  override readonly name = "DemoError";
}

const HIGGS = "/usr/local/bin/higgs";

/** Runs the demo here, or in a user namespace of its own. Throws DemoError where neither may be. */
export async function runDemo({ term, setExitCode }: Context): Promise<void> {
  requireLinux("run the demo");
  const privilege = await labPrivilege("higgs demo");
  switch (privilege.kind) {
    case "refused":
      throw new DemoError(`Cannot build the demo's little internet: ${privilege.why}.`, {
        code: "privilege-missing",
        remedy: privilege.say,
      });
    case "userns":
      setExitCode(await reexecInUserNamespace([...self(), "demo"]));
      return;
    case "root":
      await demo(term);
  }
}

async function demo(term: Terminal): Promise<void> {
  const signal = interruptSignal();
  const started = performance.now();
  term.out(term.paint("bold", "higgs demo: a laptop in a café browses through the home PC"));
  term.out(term.paint("dim", "Nine machines, each with a network, files and processes of its own, on this one."));
  term.out("");
  let saw: string | null = null;
  {
    await using stack = new AsyncDisposableStack();
    const lab = stack.use(await announced(term, "A little internet comes up", () => buildLab(signal)));
    for (const step of demoSteps(lab)) {
      signal.throwIfAborted();
      const result = await announced(term, step.title, () => step.run(signal));
      for (const line of result.lines) term.out(`      ${line}`);
      saw = result.pageSaw ?? saw;
    }
  }
  term.out("");
  term.out(`Done in ${((performance.now() - started) / 1000).toFixed(1)} s, and nothing is left behind.`);
  term.out(`The page saw the laptop come from ${term.paint("green", saw ?? "nowhere")}: the home PC's public address.`);
}

async function buildLab(signal: AbortSignal): Promise<Lab> {
  const [program, ...rest] = self();
  if (program === undefined || rest.length > 0) {
    throw new DemoError("Cannot run the demo from source: it runs the executable in each place.", {
      code: "failed",
      remedy: "npm run demo",
    });
  }
  const serviceProgram = [HIGGS, "lab-service"];
  return await startLab(smallInternet({ extraZone: DEMO_ZONE }), {
    signal,
    programs: { higgs: program },
    serviceProgram,
  });
}

/** The title at once, the time behind it when it is done. */
async function announced<T>(term: Terminal, title: string, work: () => Promise<T>): Promise<T> {
  const started = performance.now();
  const pad = " ".repeat(Math.max(1, 58 - Bun.stringWidth(title)));
  if (term.isTty) process.stdout.write(`${term.paint("cyan", "  …")} ${title}`);
  try {
    const result = await work();
    const ms = Math.round(performance.now() - started);
    const mark = `${term.isTty ? "\r" : ""}${term.paint("green", "  ✓")}`;
    term.out(`${mark} ${title}${pad}${term.paint("dim", `${ms} ms`)}`);
    return result;
  } catch (thrown) {
    term.out(`${term.isTty ? "\r" : ""}${term.paint("red", "  ✗")} ${title}`);
    throw thrown;
  }
}
