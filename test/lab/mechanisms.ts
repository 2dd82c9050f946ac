// A lab host with nft, or with one of the two kinds of iptables alone, and what its client's rules are there.
import type { LabHost } from "../../src/lab/host.ts";
import type { ClientFirewallPolicy } from "../../src/net/firewall/client.ts";
import { rulesetFor } from "../../src/net/firewall/client-table.ts";
import { replacementOf } from "../../src/net/firewall/iptables-chains.ts";
import { clientChains } from "../../src/net/firewall/iptables-client-chains.ts";
import { replacementText } from "../../src/net/firewall/nft-table.ts";
import { IDENTIFIERS } from "../../src/net/identifiers.ts";
import { KEPT_NFT, until } from "./harness.ts";

export type Mechanism = "nft" | "iptables-nft" | "iptables-legacy";

const MECHANISMS: readonly Mechanism[] = ["nft", "iptables-nft", "iptables-legacy"];
const FAMILIES = ["iptables", "ip6tables"] as const;
const { table, chainPrefix } = IDENTIFIERS.client;

/** `npm run lab-iptables` runs the client's tests with each. */
export function mechanismAsked(): Mechanism {
  const asked = process.env["HIGGS_LAB_FIREWALL"] ?? "nft";
  const found = MECHANISMS.find((one) => one === asked);
  if (found === undefined) throw new Error(`HIGGS_LAB_FIREWALL is "${asked}": ${MECHANISMS.join(", ")}.`);
  return found;
}

/** Until the host's next boot: the others are no programs any more, for this host alone. */
export async function leaveOnly(host: LabHost, mechanism: Mechanism): Promise<void> {
  if (mechanism === "nft") return;
  const hide = [
    await toolPath(host, "nft"),
    await toolPath(host, multi(mechanism === "iptables-nft" ? "legacy" : "nft")),
  ];
  await host.execOrThrow(["cp", await toolPath(host, "nft"), KEPT_NFT]);
  await host.writeFile(NOTHING, "");
  for (const path of hide) await host.execOrThrow(["mount", "--bind", NOTHING, path]);
}

/** All that `leaveOnly` hid. */
export async function giveBack(host: LabHost): Promise<void> {
  for (const path of await hidden(host)) await host.execOrThrow(["umount", path]);
  await host.execOrThrow(["rm", "-f", KEPT_NFT]);
}

async function hidden(host: LabHost): Promise<readonly string[]> {
  const mounts = await host.readFile("/proc/self/mountinfo");
  return mounts.split("\n").flatMap((line) => {
    const [, , , from = "", to = ""] = line.split(" ");
    return from.endsWith(NOTHING) ? [to] : [];
  });
}
/** Of each host, on its own disk. */
const NOTHING = "/root/nothing";

/** Until the host's next boot: iptables of either kind is no program any more. */
export async function hideIptables(host: LabHost): Promise<void> {
  await host.writeFile(NOTHING, "");
  for (const variant of ["legacy", "nft"] as const) {
    await host.execOrThrow(["mount", "--bind", NOTHING, await toolPath(host, multi(variant))]);
  }
}

/** One program under many names. */
function multi(variant: "legacy" | "nft"): string {
  return variant === "legacy" ? "xtables-legacy-multi" : "xtables-nft-multi";
}

async function toolPath(host: LabHost, tool: string): Promise<string> {
  return (await host.execOrThrow(["sh", "-c", `readlink -f $(command -v ${tool})`])).trim();
}

/** Everything that iptables shows, or the client's table. */
export async function rulesOf(host: LabHost, mechanism: Mechanism): Promise<string> {
  if (mechanism === "nft") return (await host.exec(["nft", "list", "table", "inet", table])).stdout;
  const texts = await Promise.all(FAMILIES.map((family) => host.execOrThrow([`${variantOf(family, mechanism)}-save`])));
  return texts.join(BETWEEN_FAMILIES);
}

/** Nothing of the client's is left; others' rules stay. */
export async function takeClientRules(host: LabHost, mechanism: Mechanism): Promise<void> {
  if (mechanism === "nft") {
    await host.execOrThrow(["nft", "delete", "table", "inet", table]);
    return;
  }
  await flushAll(host, mechanism);
}

/** What `rulesOf` gave, into a machine without them. */
export async function restoreRules(host: LabHost, mechanism: Mechanism, rules: string): Promise<void> {
  if (mechanism === "nft") {
    await host.execOrThrow(["nft", "-f", "-"], { stdin: rules });
    return;
  }
  const texts = rules.split(BETWEEN_FAMILIES);
  for (const [index, family] of FAMILIES.entries()) {
    await host.execOrThrow([`${variantOf(family, mechanism)}-restore`, "--noflush"], { stdin: texts[index] ?? "" });
  }
}
const BETWEEN_FAMILIES = "\n# the other family\n";

/** As somebody does who wants a clean machine. */
export async function flushAll(host: LabHost, mechanism: Mechanism): Promise<void> {
  if (mechanism === "nft") {
    await host.execOrThrow(["nft", "flush", "ruleset"]);
    return;
  }
  for (const family of FAMILIES) {
    await host.execOrThrow([`${variantOf(family, mechanism)}-restore`, "--noflush"], { stdin: EMPTY });
  }
}
/** At once, as a running client is quick to mend. Without -X, by which iptables over nf_tables makes the kernel's own chains anew too. */
const EMPTY = "*filter\n-F\nCOMMIT\n*mangle\n-F\nCOMMIT\n";

export type ClientRules = "none" | "marks" | "closing";

async function clientRules(host: LabHost, mechanism: Mechanism): Promise<ClientRules> {
  const rules = await rulesOf(host, mechanism);
  const [closing, marks] =
    mechanism === "nft" ? ["chain output", "put_mark"] : [`-A ${chainPrefix}out`, `-A ${chainPrefix}mark`];
  if (rules.includes(closing)) return "closing";
  return rules.includes(marks) ? "marks" : "none";
}

export async function untilRules(host: LabHost, mechanism: Mechanism, wanted: ClientRules): Promise<void> {
  await until(async () => (await clientRules(host, mechanism)) === wanted, { what: `rules of the kind "${wanted}"` });
}

/** The policy itself, without a client. */
export async function loadPolicy(host: LabHost, mechanism: Mechanism, policy: ClientFirewallPolicy): Promise<void> {
  if (mechanism === "nft") {
    const rules = rulesetFor(table, policy, IDENTIFIERS.client);
    await host.execOrThrow(["nft", "-f", "-"], { stdin: rules === null ? "" : replacementText(rules) });
    return;
  }
  for (const [index, family] of FAMILIES.entries()) {
    const chains = clientChains(policy, index === 0 ? 4 : 6, IDENTIFIERS.client);
    // Into a machine without any, or again: the ways in are not doubled.
    await host.exec(["sh", "-c", `${variantOf(family, mechanism)} -F; ${variantOf(family, mechanism)} -X`]);
    const stdin = replacementOf(chains, new Map(), chainPrefix);
    await host.execOrThrow([`${variantOf(family, mechanism)}-restore`, "--noflush"], { stdin });
  }
}

function variantOf(family: (typeof FAMILIES)[number], mechanism: Exclude<Mechanism, "nft">): string {
  return mechanism.replace("iptables", family);
}
