import { expect, test } from "bun:test";
import type { MachineName } from "../../../src/base/hostname.ts";
import { ExitError, exitChoiceText, offersExit, parseExitChoice, pickExit } from "../../../src/client/exit-choice.ts";
import { knownPeer, READY, somebody } from "../peer/machines.ts";

const home = somebody("home", 2);
const cabin = somebody("cabin", 3);
const named = (name: string) => ({ kind: "named", name: name as MachineName }) as const;
const AUTO = { kind: "auto" } as const;
const notReady = { ready: false, ipv6: false, missing: ["nft is missing."] };

test("parseExitChoice() reads auto, none and a machine's name, and gives them back", () => {
  for (const text of ["auto", "none", "home", "a-b-1"]) expect(exitChoiceText(parseExitChoice(text))).toBe(text);
  expect(parseExitChoice("auto")).toEqual({ kind: "auto" });
  expect(parseExitChoice("home")).toEqual(named("home"));
});

test("parseExitChoice() refuses what is no name, and shows it", () => {
  for (const text of ["", "Home", "a_b", "-a", "a.b", "x".repeat(64)]) {
    try {
      parseExitChoice(text);
      throw new Error(`"${text}" was taken`);
    } catch (thrown) {
      expect(thrown).toBeInstanceOf(ExitError);
      expect(thrown).toMatchObject({ code: "bad-exit", remedy: "higgs client exit list" });
      expect(String(thrown)).toContain(`"${text}"`);
    }
  }
});

test("offersExit() believes the signed record, not presence", () => {
  expect(offersExit(knownPeer(home))).toBe(true);
  expect(offersExit(knownPeer(home, { exit: READY }, { routes: [] }))).toBe(false);
});

test("pickExit() waits, with the reason, where there is no exit", () => {
  const pick = pickExit([], AUTO, null);
  expect(pick).toMatchObject({ kind: "waiting", text: "No machine of this network offers an exit." });
  expect(pickExit([], { kind: "none" }, null)).toEqual({ kind: "none" });
});

test("pickExit() takes the first ready exit by name", () => {
  const pick = pickExit([knownPeer(home), knownPeer(cabin)], AUTO, null);
  expect(pick).toMatchObject({ kind: "peer", peer: { name: "cabin" } });
  const ready = pickExit([knownPeer(home), knownPeer(cabin, { exit: notReady })], AUTO, null);
  expect(ready).toMatchObject({ kind: "peer", peer: { name: "home" } });
});

test("pickExit() moves nobody when a second exit comes up", () => {
  const pick = pickExit([knownPeer(home), knownPeer(cabin)], AUTO, home.id);
  expect(pick).toMatchObject({ kind: "peer", peer: { name: "home" } });
});

test("pickExit() moves on with auto when the exit in use is not ready, and stays when there is no other", () => {
  const gone = knownPeer(home, { online: false });
  expect(pickExit([gone, knownPeer(cabin)], AUTO, home.id)).toMatchObject({ kind: "peer", peer: { name: "cabin" } });
  expect(pickExit([gone], AUTO, home.id)).toMatchObject({ kind: "peer", peer: { name: "home" } });
});

test("pickExit() stays with the named exit, ready or not, once it is in use", () => {
  const gone = knownPeer(home, { online: false });
  const peers = [gone, knownPeer(cabin)];
  expect(pickExit(peers, named("home"), home.id)).toMatchObject({ kind: "peer", peer: { name: "home" } });
});

test("pickExit() says why the named exit is not used", () => {
  const why = (peers: Parameters<typeof pickExit>[0], name = "home"): string => {
    const pick = pickExit(peers, named(name), null);
    return pick.kind === "waiting" ? pick.text : pick.kind;
  };
  expect(why([])).toBe('No machine named "home" is known here.');
  expect(why([knownPeer(home, {}, { routes: [] })])).toBe('"home" does not offer an exit.');
  expect(why([knownPeer(home, { online: false })])).toBe('"home" is offline.');
  expect(why([knownPeer(home, { exit: notReady })])).toBe('"home" cannot be an exit now: nft is missing.');
  expect(why([knownPeer(home, { exit: null })])).toBe('"home" cannot be an exit now.');
  expect(why([knownPeer(home)])).toBe("peer");
});

test("pickExit() with auto tells what each offered exit lacks", () => {
  const pick = pickExit([knownPeer(home, { online: false }), knownPeer(cabin, { exit: notReady })], AUTO, null);
  expect(pick).toMatchObject({
    kind: "waiting",
    text: '"home" is offline. "cabin" cannot be an exit now: nft is missing.',
  });
});
