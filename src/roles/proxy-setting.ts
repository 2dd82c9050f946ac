// The setting --proxy: as a person names it, or as other programs' variables say it. Pure.
import { z } from "zod";
import { parseProxy } from "../net/http-proxy.ts";

export interface ProxySetting {
  /** http://[USER:PASSWORD@]HOST:PORT, file:PATH, or none. Secret. */
  readonly text: string;
  /** NO_PROXY; empty for a proxy that was named for higgs. */
  readonly except: string;
  /** By a flag, a variable or a file of ours: then it is for keeps. */
  readonly isNamed: boolean;
}

const BY_RANK = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] as const;
/** What other programs, and this one's runtime, read about proxies. */
export const PROXY_VARIABLES = [...BY_RANK, "http_proxy", "HTTP_PROXY"] as const;

export function proxyElsewhere(env: Readonly<Record<string, string | undefined>>): ProxySetting | null {
  const text = BY_RANK.map((name) => env[name]).find((value) => value !== undefined && value !== "");
  if (text === undefined) return null;
  return { text, except: env["no_proxy"] ?? env["NO_PROXY"] ?? "", isNamed: false };
}

/** Another program's variable is looked at by whoever dials: `status` has no need of it. */
export const proxySetting = z.preprocess(
  (value) => (typeof value === "string" ? { text: value, except: "", isNamed: true } : value),
  z.custom<ProxySetting>().refine(({ text, isNamed }) => !isNamed || isProxyText(text), {
    error: "it is no http://[USER:PASSWORD@]HOST:PORT",
  }),
);

function isProxyText(text: string): boolean {
  return text === "none" || /^file:./.test(text) || parseProxy(text) !== null;
}
