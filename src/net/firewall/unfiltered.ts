// What stands in for a role's firewall where nft does no work: changes nothing, and says what is open without it.
import type { HiggsError } from "../../base/errors.ts";
import { FORWARD4, FORWARD6 } from "../forwarding.ts";
import type { SysctlKey } from "../journal.ts";
import type { Redirect } from "../redirect.ts";
import { RedirectRefused } from "../redirect.ts";
import type { Sysctl } from "../sysctl.ts";
import type { ConnectionLog } from "./connection-log.ts";
import type { ClientFirewall } from "./client.ts";
import { FirewallNotLoaded } from "./errors.ts";
import type { ExitFirewall } from "./exit.ts";

/** A client's routes alone hold its traffic in the tunnel then; a kill switch cannot be held, and `trouble` is thrown for it. */
export function unfilteredClient(trouble: HiggsError): ClientFirewall {
  return {
    apply({ policy, egress }) {
      const closes = policy.kind === "blocked" || policy.kind === "connecting" || egress.length > 0;
      return closes ? Promise.reject(trouble) : Promise.resolve();
    },
    closes: () => Promise.resolve(false),
    verify: () => Promise.resolve([]),
    reset: () => Promise.resolve(),
  };
}

/** Never an exit. Its peers reach the machine itself and, as soon as the kernel forwards, what lies behind: that is a breach. */
export function unfilteredNode(deps: { readonly sysctl: Pick<Sysctl, "read"> }): ExitFirewall {
  const nothing = (): Promise<void> => Promise.resolve();
  const breach = async (key: SysctlKey): Promise<readonly string[]> =>
    (await deps.sysctl.read(key)) === "1"
      ? [`This machine forwards packets ("${key}" is 1), and without nft or iptables its peers would pass through it.`]
      : [];
  return {
    apply: nothing,
    setClients: nothing,
    closeLease: nothing,
    reset: nothing,
    loaded: () => Promise.resolve(null),
    renewLease: () =>
      Promise.reject(
        new FirewallNotLoaded("Cannot open the exit: without nft or iptables nothing would isolate it.", {
          code: "firewall-not-loaded",
        }),
      ),
    verify: async () => [...(await breach(FORWARD4)), ...(await breach(FORWARD6))],
  };
}

/** Where a bridge of ours has the port, moving a path asks nothing of the kernel. */
export function noRedirect(): Redirect {
  return {
    apply(policy) {
      if (policy.redirects.length === 0 && policy.dropFrom.length === 0) return Promise.resolve();
      return Promise.reject(
        new RedirectRefused("Cannot redirect a path: nft does no work here.", { code: "redirect-refused" }),
      );
    },
    reset: () => Promise.resolve(),
  };
}

/** Nothing sees the connections. `trouble`: why there is no nft. */
export function noConnectionLog(trouble: HiggsError): ConnectionLog {
  return {
    apply: (on) => (on ? Promise.reject(trouble) : Promise.resolve()),
    verify: () => Promise.resolve([]),
    read: () => Promise.resolve([]),
  };
}
