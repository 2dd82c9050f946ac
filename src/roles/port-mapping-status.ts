// What status and netcheck say of the port that the router maps, if any.
import { formatEndpoint } from "../base/ip.ts";
import type { Paths } from "../peer/paths.ts";

/** `state` is one of off, no-router, asking, none, elsewhere, mapped; what does not apply is null. */
export function portMappingOf(paths: Pick<Paths, "routerPort"> | null) {
  const view = paths?.routerPort ?? { state: "off" as const };
  return {
    state: view.state,
    protocol: view.state === "mapped" ? view.protocol : null,
    endpoint: "external" in view ? formatEndpoint(view.external) : null,
    router: "router" in view ? view.router : null,
  };
}
