// The name of a machine: a host name label, safe in every file and ruleset it may end up in.

export type MachineName = string & { readonly __brand: "MachineName" };

/** One label of RFC 1123, in lower case. */
const LABEL = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

export function isMachineName(text: string): text is MachineName {
  return LABEL.test(text);
}

/** The nearest valid name to a host name that the operating system gave: `Anna's PC.local` becomes `anna-s-pc`. */
export function machineNameFrom(hostname: string): MachineName {
  const first = hostname.toLowerCase().split(".")[0] ?? "";
  const cleaned = first
    .replace(/[^a-z0-9-]+/g, "-")
    .replace(/^-+/, "")
    .slice(0, 63)
    .replace(/-+$/, "");
  return isMachineName(cleaned) ? cleaned : ("machine" as MachineName);
}
