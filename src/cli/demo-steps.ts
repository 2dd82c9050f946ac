// What the demo does and shows: each step types what a person would type, on the machine where they would type it.
import { HiggsError } from "../base/errors.ts";
import type { LabHost } from "../lab/host.ts";
import type { Lab } from "../lab/lab.ts";
import { LAB_CA_PATH } from "../lab/service.ts";
import { DNS_NAME, WEB_NAME } from "../lab/small-internet.ts";
import type { ZoneRecord } from "../lab/topology.ts";

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
/** The page by one family at a time: a browser would choose, and show only one of the two. */
const PAGES = { IPv4: `ip4.${WEB_NAME}`, IPv6: `ip6.${WEB_NAME}` } as const;
const START_TIMEOUT_MS = 20_000;
/** Real machines ask real resolvers; this internet has one of its own. */
const DNS_FLAGS: readonly string[] = ["--dns", `https://${DNS_NAME}/dns-query`, "--dns-ca", LAB_CA_PATH];

/** Names for the page that have one family each; beside those that every lab has. */
export const DEMO_ZONE: readonly ZoneRecord[] = [
  { name: PAGES.IPv4, type: "A", data: "203.0.113.80" },
  { name: PAGES.IPv6, type: "AAAA", data: "2001:db8:80::80" },
];

interface Seen {
  readonly IPv4: string;
  readonly IPv6: string;
}

export function demoSteps(lab: Lab): readonly DemoStep[] {
  const invites = { node: "", client: "" };
  let before: Seen = { IPv4: "", IPv6: "" };
  const laptop = lab.host("laptop");
  return [
    {
      title: "On the VPS: higgs server",
      async run(signal) {
        const server = await lab.host("vps").spawn([HIGGS, "server"]);
        const line = (pattern: RegExp): Promise<string> =>
          server.waitForLine(pattern, { timeoutMs: START_TIMEOUT_MS, signal });
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
        return { lines: [`The page sees ${both(before)}: the café.`] };
      },
    },
    {
      title: "On the laptop: the second line",
      async run(signal) {
        const up = await laptop.exec([HIGGS, "client", "up", "--join", invites.client], {
          timeoutMs: START_TIMEOUT_MS,
          signal,
        });
        if (up.code !== 0) throw failed("connect the laptop", up.stderr || up.stdout);
        return { lines: shown(up.stdout) };
      },
    },
    {
      title: "On the laptop: the same page again",
      async run(signal) {
        const saw = await page(laptop, signal);
        if (saw.IPv4 === before.IPv4 || saw.IPv6 === before.IPv6) {
          throw failed("browse through the home PC", `the page still sees ${both(saw)}`);
        }
        return { lines: [`The page sees ${both(saw)}: home.`], pageSaw: saw.IPv4 };
      },
    },
    {
      title: "On the laptop: higgs client down, and the page once more",
      async run(signal) {
        const down = await laptop.exec([HIGGS, "client", "down"], { timeoutMs: START_TIMEOUT_MS, signal });
        if (down.code !== 0) throw failed("disconnect the laptop", down.stderr || down.stdout);
        const after = await page(laptop, signal);
        if (both(after) !== both(before)) throw failed("put the laptop back", `the page sees ${both(after)}`);
        return { lines: [`The page sees ${both(after)} again: routes and DNS are as they were.`] };
      },
    },
  ];
}

function both(seen: Seen): string {
  return `${seen.IPv4} and ${seen.IPv6}`;
}

function inviteIn(line: string): string {
  return /higgs:\/\/[^\s']+/.exec(line)?.[0] ?? "";
}

function shown(text: string): string[] {
  return text.split("\n").filter((line) => line.trim() !== "");
}

async function page(host: LabHost, signal: AbortSignal): Promise<Seen> {
  const fetched = async (name: string): Promise<string> => {
    const argv = [HIGGS, "lab-service", "fetch", `http://${name}/`];
    const answer = await host.exec(argv, { timeoutMs: START_TIMEOUT_MS, signal });
    if (answer.code !== 0) throw failed(`fetch http://${name}/ on ${host.name}`, answer.stderr);
    return answer.stdout.trim();
  };
  const [IPv4, IPv6] = await Promise.all([fetched(PAGES.IPv4), fetched(PAGES.IPv6)]);
  return { IPv4, IPv6 };
}

function failed(what: string, why: string): StepError {
  return new StepError(`Cannot ${what}: ${why.trim()}.`, { code: "failed" });
}
