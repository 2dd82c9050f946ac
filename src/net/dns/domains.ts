// Search domains that are safe in the text of resolv.conf and in an argument of resolvectl.
import { DnsRefused } from "./errors.ts";
import type { DnsPolicy } from "./system-dns.ts";

/** RFC 1123 labels; neither white space nor a leading "~" or "-" can get through. */
const DOMAIN = /^(?=.{1,253}$)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*$/i;

export function isDomain(text: string): boolean {
  return DOMAIN.test(text);
}

/** Throws DnsRefused for what is no DNS name. */
export function searchDomainsOf(policy: DnsPolicy): readonly string[] {
  const domains = policy.searchDomains ?? [];
  for (const domain of domains) {
    if (isDomain(domain)) continue;
    throw new DnsRefused(`Cannot search in "${domain}": it is no DNS name.`, { code: "search-domain-invalid" });
  }
  return domains;
}
