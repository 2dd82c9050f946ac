// Sets the machine's DNS servers on Windows: on the tunnel's interface, and by a rule that sends every name to them.
//
// The rule (Name Resolution Policy Table) is what counts: without it Windows asks the servers of all interfaces at once and takes the
// first answer. It is kept in the registry and outlives a boot, so that whoever finds it without a tunnel takes it away.
import { z } from "zod";
import { SerialQueue } from "../../base/async.ts";
import { familyOf, type IpAddress, parseIp } from "../../base/ip.ts";
import type { Logger } from "../../base/log.ts";
import { type Exec, output } from "../exec.ts";
import type { Identifiers } from "../identifiers.ts";
import type { Journal } from "../journal.ts";
import { askScript, runScript } from "../powershell.ts";
import { DnsRefused } from "./errors.ts";
import type { DnsPolicy, MachineDns } from "./system-dns.ts";

export interface WindowsDnsDeps {
  readonly exec: Exec;
  readonly journal: Journal;
  readonly identifiers: Pick<Identifiers, "interface">;
  readonly log: Logger;
}

const dnsState = z.object({
  rules: z.array(z.object({ name: z.string(), namespaces: z.array(z.string()), servers: z.array(z.string()) })),
  servers: z.array(z.string()),
});

/** Calls are done one after the other, in their order. */
export function windowsDns(deps: WindowsDnsDeps): MachineDns {
  const { exec, journal, identifiers, log } = deps;
  const queue = new SerialQueue();
  return {
    apply: (policy, signal) =>
      queue.run(async () => {
        if ((policy.searchDomains ?? []).length > 0) {
          throw new DnsRefused("Cannot set search domains on Windows: higgs does not know how.", {
            code: "search-domain-invalid",
          });
        }
        const now = await readDns(exec, identifiers.interface, signal);
        const isAsked = isSame(now.servers, policy.servers);
        const isRuled =
          now.rules.length === 1 &&
          now.rules.every(({ namespaces, servers }) => String(namespaces) === "." && isSame(servers, policy.servers));
        if (isAsked && isRuled) return;
        if (!journal.entries().some(({ kind }) => kind === "windows-dns")) await journal.add({ kind: "windows-dns" });
        log.info({ servers: policy.servers, interface: identifiers.interface }, "setting the DNS servers");
        if (!isAsked)
          for (const argv of serverCommands(identifiers.interface, policy)) await output(exec, argv, { signal });
        if (isRuled) return;
        if (now.rules.length > 0) await removeWindowsDns(exec, identifiers.interface, signal);
        await runScript(exec, "add-dns-rule", {
          parameters: { servers: policy.servers, comment: identifiers.interface },
          signal,
        });
      }),
    reset: (signal) =>
      queue.run(async () => {
        await removeWindowsDns(exec, identifiers.interface, signal);
        await journal.remove({ kind: "windows-dns" });
      }),
    foreign: () => Promise.resolve(null), // the rule and the interface are put back
  };
}

/** The rules with our comment, which is the tunnel's name. The interface's own servers go with it. True when there was one. */
export async function removeWindowsDns(exec: Exec, comment: string, signal: AbortSignal): Promise<boolean> {
  const schema = z.object({ count: z.number() });
  return (await askScript(exec, "remove-dns-rules", { schema, parameters: { comment }, signal })).count > 0;
}

export async function readDns(exec: Exec, name: string, signal: AbortSignal): Promise<z.infer<typeof dnsState>> {
  return await askScript(exec, "read-dns", {
    schema: dnsState,
    parameters: { comment: name, interface: name },
    signal,
  });
}

/** netsh interface ipv4|ipv6 set dnsservers, add dnsservers (learn.microsoft.com, netsh-interface): the first replaces all of a family. */
function serverCommands(name: string, { servers }: DnsPolicy): readonly (readonly [string, ...string[]])[] {
  return ([4, 6] as const).flatMap((family) =>
    servers
      .filter((server) => familyOf(server) === family)
      .map((server, at): readonly [string, ...string[]] => [
        "netsh",
        "interface",
        `ipv${family}`,
        at === 0 ? "set" : "add",
        "dnsservers",
        `name=${name}`,
        ...(at === 0 ? ["source=static"] : []),
        `address=${server}`,
        ...(at === 0 ? ["register=none"] : [`index=${at + 1}`]),
        // They answer in the tunnel alone, which need not be up yet.
        "validate=no",
      ]),
  );
}

function isSame(there: readonly string[], wanted: readonly IpAddress[]): boolean {
  return String(there.map((one) => parseIp(one) ?? one).sort()) === String([...wanted].sort());
}
