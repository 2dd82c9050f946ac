// The client's firewall as an nft table.
import type { Logger } from "../../base/log.ts";
import type { Exec } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";
import type { Journal } from "../journal.ts";
import type { ClientFirewall } from "./client.ts";

export interface NftClientDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly identifiers: Identifiers;
  readonly log: Logger;
}

export function nftClientFirewall(deps: NftClientDeps): ClientFirewall {
  throw new Error(`Cannot make the firewall "${deps.identifiers.table}" yet.`);
}
