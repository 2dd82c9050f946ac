// Sets and puts back resolv.conf until it is killed; a line for each turn.
import { silentLogger } from "../../../../src/base/log.ts";
import { resolvConfDns } from "../../../../src/net/dns/resolv-conf.ts";
import { ip } from "../firewall/exit-policy.ts";
import { memoryJournal } from "../memory-journal.ts";

const [stateDir = "", path = ""] = process.argv.slice(2);
const { signal } = new AbortController();
const dns = resolvConfDns({ stateDir, path, journal: memoryJournal(), log: silentLogger });
for (let turn = 1; turn < 10_000; turn++) {
  await dns.apply({ interface: "higgs0", servers: [ip("10.83.0.1")] }, signal);
  await dns.apply({ interface: "higgs0", servers: [ip("10.83.0.2")] }, signal);
  await dns.reset(signal);
  process.stdout.write(`${turn}\n`);
}
