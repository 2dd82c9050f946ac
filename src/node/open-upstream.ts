// Opens an upstream of the node's resolver: one attempt with a deadline, whichever way it is asked.
import { DeadlineExceeded, withDeadline } from "../base/async.ts";
import { errorText } from "../base/errors.ts";
import { askHttps } from "./dns-https.ts";
import { askTls } from "./dns-tls.ts";
import { askUdp } from "./dns-udp.ts";
import { type AskUpstream, type Upstream, UpstreamError, type UpstreamSpec, upstreamName } from "./dns-upstream.ts";

/** One attempt; a second upstream is asked after it. */
const ASK_TIMEOUT_MS = 3_000;

/** `caPem`: a private root for DNS over HTTPS and TLS, instead of the system's. */
export function openUpstream(spec: UpstreamSpec, options: { readonly caPem: string | null }): Upstream {
  const name = upstreamName(spec);
  const ask = askBy(spec, options.caPem);
  return {
    name,
    async ask(query, signal) {
      try {
        return await withDeadline(`ask ${name}`, (limited) => ask(query, limited), {
          timeoutMs: ASK_TIMEOUT_MS,
          signal,
        });
      } catch (thrown) {
        signal.throwIfAborted();
        if (thrown instanceof UpstreamError) throw thrown;
        // Its sentence already says who was asked.
        if (thrown instanceof DeadlineExceeded) {
          throw new UpstreamError(thrown.message, { code: "dns-upstream", cause: thrown });
        }
        throw new UpstreamError(`Cannot ask ${name}: ${errorText(thrown)}`, { code: "dns-upstream", cause: thrown });
      }
    },
  };
}

function askBy(spec: UpstreamSpec, caPem: string | null): AskUpstream {
  switch (spec.kind) {
    case "https":
      return askHttps(spec.url, caPem);
    case "tls":
      return askTls(spec, caPem);
    case "udp":
      return askUdp(spec.endpoint);
  }
}
