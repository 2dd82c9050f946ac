// The exit's firewall as an nft table: isolation that persists, and a lease on which everything permitted hangs.
import type { Logger } from "../../base/log.ts";
import type { Exec } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";
import type { Journal } from "../journal.ts";
import type { ExitFirewall } from "./exit.ts";

export interface NftExitDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly identifiers: Identifiers;
  readonly log: Logger;
}

export function nftExitFirewall(deps: NftExitDeps): ExitFirewall {
  throw new Error(`Cannot make the firewall "${deps.identifiers.table}" yet.`);
}
