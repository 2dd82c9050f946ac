// Sets a machine's DNS servers, or puts them back, and dies by SIGKILL just before its n-th step; prints how many it took where it lives.
import { silentLogger } from "../../src/base/log.ts";
import { linuxDns } from "../../src/net/dns/linux.ts";
import { type Exec, systemExec } from "../../src/net/exec.ts";
import { IDENTIFIERS } from "../../src/net/identifiers.ts";
import type { Journal } from "../../src/net/journal.ts";
import { openJournal } from "../../src/net/journal-file.ts";
import { ip } from "../unit/net/firewall/exit-policy.ts";

const [deed = "", last = ""] = process.argv.slice(2);
const { signal } = new AbortController();
const stateDir = "/var/lib/higgs/client";
let steps = 0;

/** A tool's run and the journal's write are steps; so is the moment after each, when what follows has not begun. */
async function stepped<T>(step: () => Promise<T>): Promise<T> {
  count();
  const result = await step();
  count();
  return result;
}

function count(): void {
  steps++;
  if (String(steps) === last) process.kill(process.pid, "SIGKILL");
}

const tools = systemExec();
const exec: Exec = { run: (argv, options) => stepped(() => tools.run(argv, options)) };
const file = await openJournal({ path: `${stateDir}/journal.json`, role: "client", log: silentLogger });
const journal: Journal = {
  entries: () => file.entries(),
  add: (entry) => stepped(() => file.add(entry)),
  remove: (entry) => stepped(() => file.remove(entry)),
};
const dns = linuxDns({ exec, journal, identifiers: IDENTIFIERS.client, log: silentLogger, stateDir });
if (deed === "set") await dns.apply({ interface: "higgs0", servers: [ip("10.83.0.1"), ip("fd83:1:2::1")] }, signal);
else await dns.reset(signal);
console.log(steps);
