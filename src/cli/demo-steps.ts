// What the demo does and shows: each step types what a person would type, on the machine where they would type it.
import { HiggsError } from "../base/errors.ts";
import type { LabHost } from "../lab/host.ts";
import type { Lab } from "../lab/lab.ts";
import { LAB_CA_PATH } from "../lab/service.ts";
import { DNS_NAME, WEB_NAME } from "../lab/small-internet.ts";

export interface StepResult {
  /** For people, below the step's title. */
  readonly lines: readonly string[];
  /** From where the web page saw the laptop come. */
  readonly pageSaw?: string;
}

export interface DemoStep {
  readonly title: string;
  run(signal: AbortSignal): Promise<StepResult>;
}

class StepError extends HiggsError {
  override readonly name = "StepError";
}

const HIGGS = "/usr/local/bin/higgs";
const PAGE = `http://${WEB_NAME}/`;
const START_TIMEOUT_MS = 20_000;
/** Real machines ask real resolvers; this internet has one of its own. */
const DNS_FLAGS: readonly string[] = ["--dns", `https://${DNS_NAME}/dns-query`, "--dns-ca", LAB_CA_PATH];

export function demoSteps(lab: Lab): readonly DemoStep[] {
  const invites = { node: "", client: "" };
  let before = "";
  const laptop = lab.host("laptop");
  return [
    {
      title: "On the VPS: higgs server",
      async run(signal) {
        const server = await lab.host("vps").spawn([HIGGS, "server"]);
        const line = (pattern: RegExp): Promise<string> => server.waitForLine(pattern, { timeoutMs: START_TIMEOUT_MS, signal });
        invites.node = inviteIn(await line(/higgs node --join/));
        invites.client = inviteIn(await line(/higgs client up --join/));
        return { lines: ["It printed two lines: one for the home PC, one for the laptop."] };
      },
    },
    {
      title: "On the home PC, behind its router: the first line",
      async run(signal) {
        const node = await lab.host("home-pc").spawn([HIGGS, "node", "--join", invites.node, ...DNS_FLAGS]);
        await node.waitForLine(/exit offered/, { timeoutMs: START_TIMEOUT_MS, signal });
        const status = await lab.host("home-pc").exec([HIGGS, "node", "status"], { signal });
        return { lines: shown(status.stdout) };
      },
    },
    {
      title: "On the laptop, behind the café's router: the page, before",
      async run(signal) {
        before = await page(laptop, signal);
        return { lines: [`The page sees ${before}: the café.`] };
      },
    },
    {
      title: "On the laptop: the second line",
      async run(signal) {
        const up = await laptop.exec([HIGGS, "client", "up", "--join", invites.client], { timeoutMs: START_TIMEOUT_MS, signal });
        if (up.code !== 0) throw failed("connect the laptop", up.stderr || up.stdout);
        return { lines: shown(up.stdout) };
      },
    },
    {
      title: "On the laptop: the same page again",
      async run(signal) {
        const saw = await page(laptop, signal);
        if (saw === before) throw failed("browse through the home PC", `the page still sees ${saw}`);
        return { lines: [`The page sees ${saw}: the home PC's router.`], pageSaw: saw };
      },
    },
    {
      title: "On the laptop: higgs client down, and the page once more",
      async run(signal) {
        const down = await laptop.exec([HIGGS, "client", "down"], { timeoutMs: START_TIMEOUT_MS, signal });
        if (down.code !== 0) throw failed("disconnect the laptop", down.stderr || down.stdout);
        const after = await page(laptop, signal);
        if (after !== before) throw failed("put the laptop back", `the page sees ${after}, not ${before}`);
        return { lines: [`The page sees ${after} again: routes and DNS are as they were.`] };
      },
    },
  ];
}

function inviteIn(line: string): string {
  return /higgs:\/\/[^\s']+/.exec(line)?.[0] ?? "";
}

function shown(text: string): string[] {
  return text.split("\n").filter((line) => line.trim() !== "");
}

async function page(host: LabHost, signal: AbortSignal): Promise<string> {
  const answer = await host.exec([HIGGS, "lab-service", "fetch", PAGE], { timeoutMs: START_TIMEOUT_MS, signal });
  if (answer.code !== 0) throw failed(`fetch ${PAGE} on ${host.name}`, answer.stderr);
  return answer.stdout.trim();
}

function failed(what: string, why: string): StepError {
  return new StepError(`Cannot ${what}: ${why.trim()}.`, { code: "failed" });
}
