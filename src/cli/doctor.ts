// `higgs doctor`: what is missing or in the way on this machine, each with its remedy.
import { Command } from "commander";
import { usualDirs } from "../net/platform.ts";
import { DOCTOR_AREAS, doctorFindings } from "../roles/doctor.ts";
import { doctorFacts } from "../roles/doctor-facts.ts";
import { type Context, jsonOption } from "./context.ts";
import { EXIT } from "./exit-codes.ts";
import { type Place, placed } from "./place.ts";
import { resolveConfig, UsageError } from "../roles/config.ts";
import { interruptSignal } from "./interrupt.ts";

const ROLES = ["server", "node", "client"] as const;
const COLOUR = { high: "red", medium: "yellow", low: "dim" } as const;

export function doctorCommand({ term, setExitCode }: Context): Command {
  return placed(new Command("doctor"), ROLES)
    .description(
      "tools, privileges, other firewalls, address clashes, leftovers, reachability: each finding with its remedy",
    )
    .addOption(jsonOption())
    .action(async (flags: Place & { json?: boolean }) => {
      const asked = ROLES.filter((role) => flags.role === undefined || flags.role === role);
      const places = await Promise.all(
        asked.map(async (role) => ({
          role,
          stateDir: flags.state ?? process.env.HIGGS_STATE ?? `${usualDirs().state}/${role}`,
          runDir: flags.run ?? process.env.HIGGS_RUN ?? `${usualDirs().run}/${role}`,
          proxy: role === "server" ? null : (await resolveConfig(role, {}, process.env)).config.proxy,
        })),
      );
      if (places.length === 0) {
        throw new UsageError(`Cannot use the role "${flags.role}" here.`, {
          code: "usage",
          remedy: `--role ${ROLES.join(" | ")}`,
        });
      }
      const facts = await doctorFacts(places, interruptSignal());
      const findings = doctorFindings(facts);
      if (findings.some(({ severity }) => severity !== "low")) setExitCode(EXIT.failed);
      if (flags.json === true) {
        const roles = facts.roles.map(({ role, isRunning }) => ({ role, running: isRunning }));
        term.out(JSON.stringify({ schema: "higgs.doctor/1", roles, wireGuard: facts.wireGuard, findings }));
        return;
      }
      for (const area of DOCTOR_AREAS) {
        const found = findings.filter((finding) => finding.area === area);
        term.out(`${found.length === 0 ? term.paint("green", "ok") : term.paint("yellow", "--")}  ${area}`);
        for (const { severity, text, remedy } of found) {
          term.out(`      ${term.paint(COLOUR[severity], `${severity}:`)} ${text}`);
          if (remedy !== null) term.out(`        ${term.paint("dim", "→")} ${remedy}`);
        }
      }
    });
}
