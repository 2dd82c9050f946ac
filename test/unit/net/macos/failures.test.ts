// Every call of coming up and going down on macOS fails once, and whoever made it is killed once: what was changed can be put back from there.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FakeMac } from "./fake-mac.ts";
import { clientOf, comeUp, goDown, optionsOf, systemsOf } from "./mac-scene.ts";

const { signal } = new AbortController();
const UNTOUCHED = new FakeMac().printed();

let stateDir = "";
beforeEach(() => {
  stateDir = mkdtempSync(join(tmpdir(), "higgs-mac-"));
});
afterEach(() => rmSync(stateDir, { recursive: true }));

/** Up under lockdown's order, which has every call of the other one, and down again. */
async function live(mac: FakeMac): Promise<void> {
  const os = await clientOf(mac, stateDir);
  await comeUp(os, true);
  await goDown(os);
}

async function callsOfALife(): Promise<readonly string[]> {
  const mac = new FakeMac();
  await live(mac);
  rmSync(join(stateDir, "journal.json"), { force: true });
  return [...mac.calls];
}

/** What another process finds once it has put everything back; the sentences with it. */
async function cleaned(mac: FakeMac) {
  mac.startAnew();
  const system = await systemsOf(mac).machine("client", optionsOf(stateDir));
  const said = await system.undoAll(signal);
  const again = await system.undoAll(signal);
  const left = (await system.changes(signal)).filter(({ kind }) => kind !== "file");
  return { printed: mac.printed(), said, again, left };
}

/** Each of some hundred lives writes its journal to a disk that others use too. */
const TIMEOUT_MS = 60_000;

describe("after any call on macOS", () => {
  test(
    "that was refused, everything is as it was once it is put back",
    async () => {
      const calls = await callsOfALife();
      expect(calls.length).toBeGreaterThan(100);
      for (const [at, call] of calls.entries()) {
        const mac = new FakeMac();
        mac.trouble = { kind: "refused", at: at + 1 };
        await live(mac).catch(() => undefined); // told to a person; here only what is left counts
        const { printed, again, left } = await cleaned(mac);
        expect({ call, printed, again, left }).toEqual({
          call,
          printed: withoutLostToken(mac, call),
          again: [],
          left: [],
        });
      }
    },
    TIMEOUT_MS,
  );

  test(
    "whose process was killed with it, everything is as it was once another has put it back, by the reverse of each change",
    async () => {
      const calls = await callsOfALife();
      for (const [at, call] of calls.entries()) {
        const mac = new FakeMac();
        mac.trouble = { kind: "killed", at: at + 1 };
        await live(mac).catch(() => undefined); // it is dead
        const before = [...mac.calls];
        const { printed, said, again, left } = await cleaned(mac);
        expect({ call, printed, again, left }).toEqual({
          call,
          printed: withoutLostToken(mac, call),
          again: [],
          left: [],
        });
        // That a reference is left is said, by the process that finds it so.
        if (mac.tokens.size > 0) expect(said.join("\n")).toContain("Left pf switched on until the next boot");
        const after = [...before, ...mac.calls];
        for (const change of before.slice(0, firstOfWayDown(before))) {
          const reverse = reverseOf(change, mac);
          const isUndone = reverse === null || after.some((one) => one.includes(reverse));
          expect({ change, reverse, isUndone }).toEqual({ change, reverse, isUndone: true });
        }
      }
    },
    TIMEOUT_MS,
  );
});

/** A process that is killed between "pfctl -E" and the journal's line of its token leaves a reference that nobody can name. */
function withoutLostToken(mac: FakeMac, call: string): string {
  if (mac.tokens.size === 0) return UNTOUCHED;
  expect(call).toBe("pfctl -E");
  return UNTOUCHED.replace("pf off", `pf on\n${[...mac.tokens].map((token) => `reference ${token}`).join("\n")}`);
}

function firstOfWayDown(calls: readonly string[]): number {
  const at = calls.findIndex((call) => call.includes("remove State:") || call.includes("route -n delete"));
  return at < 0 ? calls.length : at;
}

/** What takes a change away; null for what changes nothing, or goes with something else. */
function reverseOf(call: string, mac: FakeMac): string | null {
  const added = /^route -n add (-inet6? -(?:net|host) \S+) (?!.*-interface)/.exec(call)?.[1];
  if (added !== undefined) return `route -n delete ${added}`;
  if (call.startsWith("pfctl -a") && call.includes("-f -")) return "-F rules";
  if (call === "pfctl -E") return mac.tokens.size === 0 ? "pfctl -X " : null;
  if (call.startsWith("WG_TUN_NAME_FILE")) return "rm /var/run/wireguard/utun7.sock";
  if (call.includes("set State:")) return "remove State:/Network/Service/higgs-client/DNS";
  return null;
}
