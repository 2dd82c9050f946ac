// Where a command that is not of one role finds the role it is about.
import type { Command } from "commander";
import type { AnyRole } from "../roles/config.ts";

export interface Place {
  readonly role?: string;
  readonly run?: string;
  readonly state?: string;
}

export function placed(command: Command, roles: readonly AnyRole[]): Command {
  return command
    .option("--role <role>", roles.join(" | "))
    .option("--run <dir>", "control sockets [HIGGS_RUN]")
    .option("--state <dir>", "keys, database, journal [HIGGS_STATE]");
}
