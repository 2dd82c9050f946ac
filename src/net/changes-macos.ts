// What a client changed on macOS, found in the real system by its fixed names and in its journal: also when the journal is lost.
import { type Change, type ChangesDeps, stateFiles } from "./changes.ts";
import { readDns } from "./dns/scutil.ts";
import { listPfRules } from "./firewall/pf-client.ts";
import { DNS_KEY, PF_ANCHOR } from "./identifiers-macos.ts";
import type { Journal, UndoEntry } from "./journal.ts";
import { readShown } from "./links-macos.ts";
import { listMarkedRoutes } from "./routes/macos.ts";
import { type MacWireGuardHost, tunnelName } from "./wg/host-macos.ts";

const ANCHOR_CHANGE = `pf anchor ${PF_ANCHOR}`;
const REFERENCE_CHANGE = "pf switched on";
/** As `macChanges` names what the kill switch has loaded, the first of them always. */
export const MAC_CLOSING: readonly string[] = [ANCHOR_CHANGE, REFERENCE_CHANGE];

/** Throws ToolFailed where the tools do not answer, as for a user who may not ask. */
export async function macChanges(
  deps: Pick<ChangesDeps, "exec" | "journal" | "stateDir" | "signal"> & { readonly host: MacWireGuardHost },
): Promise<readonly Change[]> {
  const found = await Promise.all([device(deps), anchor(deps), routes(deps), dns(deps), stateFiles(deps)]);
  return [...found.flat(), ...reference(deps.journal)];
}

type Deps = Parameters<typeof macChanges>[0];

async function device({ exec, journal, host, signal }: Deps): Promise<readonly Change[]> {
  const name = await tunnelName(host);
  if (name === null) return [];
  const shown = (await readShown(exec, signal)).interfaces.find((one) => one.name === name);
  const lines = (shown?.addresses ?? []).map(({ address, prefixLength }) => `address ${address}/${prefixLength}`);
  return [{ kind: "device", what: `interface ${name}`, lines, isJournaled: has(journal, "wireguard-device") }];
}

async function anchor({ exec, journal, signal }: Deps): Promise<readonly Change[]> {
  const lines = await listPfRules(exec, signal);
  return lines.length === 0
    ? []
    : [{ kind: "table", what: ANCHOR_CHANGE, lines, isJournaled: has(journal, "pf-anchor") }];
}

async function routes({ exec, journal, signal }: Deps): Promise<readonly Change[]> {
  const isJournaled = has(journal, "marked-routes");
  return (await listMarkedRoutes(exec, signal)).map((what) => ({ kind: "route", what, lines: [], isJournaled }));
}

async function dns({ exec, journal, signal }: Deps): Promise<readonly Change[]> {
  const shown = await readDns(exec, signal);
  if (shown === null) return [];
  return [
    { kind: "dns", what: `scutil ${DNS_KEY}`, lines: [...shown.servers], isJournaled: has(journal, "scutil-dns") },
  ];
}

/** Whose a reference is, pf does not tell: only the journal knows. */
function reference(journal: Pick<Journal, "entries">): readonly Change[] {
  return journal.entries().flatMap((entry): readonly Change[] => {
    if (entry.kind !== "pf-enable") return [];
    const lines = [`token ${entry.token ?? "not known"}`];
    return [{ kind: "setting", what: REFERENCE_CHANGE, lines, isJournaled: true }];
  });
}

function has(journal: Pick<Journal, "entries">, kind: UndoEntry["kind"]): boolean {
  return journal.entries().some((entry) => entry.kind === kind);
}
