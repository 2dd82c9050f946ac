// What can go wrong when the machine's DNS servers are set.
import { HiggsError } from "../../base/errors.ts";

/** The file or the service refuses; the machine goes on asking whom it asked before. */
export class DnsRefused extends HiggsError {
  override readonly name = "DnsRefused";
}
