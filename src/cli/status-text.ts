// Health entries and the router's mapping as lines for people.
import { z } from "zod";
import type { Terminal } from "./output.ts";

export const portMappingShape = z
  .object({
    state: z.string(),
    protocol: z.string().nullable(),
    endpoint: z.string().nullable(),
    router: z.string().nullable(),
  })
  .loose();

const PROTOCOLS: Readonly<Record<string, string>> = { pcp: "PCP", "nat-pmp": "NAT-PMP", upnp: "UPnP" };

export function portMappingText({ state, protocol, endpoint, router }: z.infer<typeof portMappingShape>): string {
  switch (state) {
    case "mapped":
      return `${endpoint ?? "-"} by ${PROTOCOLS[protocol ?? ""] ?? protocol ?? "-"}`;
    case "asking":
      return `the router ${router ?? "-"} is being asked`;
    case "none":
      return `no: the router ${router ?? "-"} maps none by PCP, NAT-PMP or UPnP`;
    case "elsewhere":
      return `no: the router ${router ?? "-"} names ${endpoint ?? "-"}, where nobody sees this machine`;
    case "no-router":
      return "no router to ask";
    default:
      return state;
  }
}

export interface HealthLine {
  readonly severity: string;
  readonly text: string;
  readonly remedy: string | null;
}

export function printHealth(term: Terminal, health: readonly HealthLine[]): void {
  for (const entry of health) {
    term.out(`  ${term.paint(entry.severity === "high" ? "red" : "yellow", "!")} ${entry.text}`);
    if (entry.remedy !== null) term.out(`    ${term.paint("dim", "→")} ${entry.remedy}`);
  }
}
