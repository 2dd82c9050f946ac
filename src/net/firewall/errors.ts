// What can go wrong with a firewall beyond a tool that fails.
import { HiggsError } from "../../base/errors.ts";

/** The table that an element was meant for is not there: `apply` comes first, and again when somebody flushed the rules. */
export class FirewallNotLoaded extends HiggsError {
  override readonly name = "FirewallNotLoaded";
}

/** A name that is no interface's must not get into the text of a ruleset. */
export class FirewallNameRefused extends HiggsError {
  override readonly name = "FirewallNameRefused";
}

/** The kernel has something else than what it was given. */
export class FirewallNotVerified extends HiggsError {
  override readonly name = "FirewallNotVerified";
}

/** A lease in iptables, which a datagram of this process renews. */
export class LeaseNotRenewed extends HiggsError {
  override readonly name = "LeaseNotRenewed";
}
