// Opening what a client's firewall closed: by each mechanism that is there, whatever becomes of the others.
import { expect, test } from "bun:test";
import { silentLogger } from "../../../../src/base/log.ts";
import { type Exec, ToolFailed } from "../../../../src/net/exec.ts";
import { clientFirewallBy } from "../../../../src/net/firewall/client-mechanism.ts";
import { IDENTIFIERS } from "../../../../src/net/identifiers.ts";
import { failureOf } from "../../support/failure.ts";
import { memoryJournal } from "../memory-journal.ts";
import { FakeIptables } from "./fake-iptables.ts";

const { signal } = new AbortController();
const identifiers = IDENTIFIERS.client;

/** Closed by an nft table, and by chains of a process before. `refused`: a family whose table nft cannot take away. */
async function machine(refused: "inet" | "netdev") {
  const iptables = new FakeIptables();
  const stdin = "*filter\n:higgs-client-out - [0:0]\n-I OUTPUT 1 -j higgs-client-out\nCOMMIT\n";
  await iptables.run(["iptables-restore", "--noflush", "-w", "5"], { stdin });
  const tables = new Set(["inet", "netdev"]);
  const exec: Exec = {
    async run(argv, options) {
      const [tool, verb, , family = ""] = argv;
      if (tool !== "nft") return await iptables.run(argv, options);
      if (verb !== "delete") throw new Error(`Not known: "${argv.join(" ")}".`);
      if (family === refused) return { code: 1, stdout: "", stderr: "Error: Could not process rule: Out of memory" };
      tables.delete(family);
      return { code: 0, stdout: "", stderr: "" };
    },
  };
  const deps = { exec, journal: memoryJournal(), identifiers, log: silentLogger };
  const firewall = clientFirewallBy({ kind: "nft" }, deps);
  const chains = async (): Promise<string> => (await iptables.run(["iptables-save"])).stdout;
  return { firewall, tables, chains };
}

for (const refused of ["netdev", "inet"] as const) {
  test(`bug: a table of ${refused} that nft could not take away kept all the rest closed`, async () => {
    const { firewall, tables, chains } = await machine(refused);
    expect(await failureOf(firewall.reset(signal))).toBeInstanceOf(ToolFailed);
    expect([...tables]).toEqual([refused]);
    expect(await chains()).not.toContain("higgs");
  });
}
