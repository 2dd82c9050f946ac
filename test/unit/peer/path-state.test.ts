import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { FULL_BYTES, SMALLER_BYTES } from "../../../src/peer/path-check.ts";
import { MOST_PATHS, startPaths } from "../../../src/peer/path-state.ts";
import { DIRECT, Driven, LAN, onDirect, OTHER, RELAY, target } from "./driven-paths.ts";

describe("stepPaths() chooses", () => {
  test("nothing before a check of full size was answered", () => {
    const driven = new Driven(true);
    driven.targets(DIRECT);
    driven.answer(DIRECT, 0);
    expect(driven.state.current).toBe("wss");
    driven.answer(DIRECT, FULL_BYTES);
    expect(driven.state.current).toBe(DIRECT.key);
  });

  test("direct before the UDP relay, and does not go back for a faster relay", () => {
    const driven = new Driven(true);
    driven.targets(RELAY, DIRECT);
    driven.answer(RELAY, FULL_BYTES, 5);
    expect(driven.state.current).toBe(RELAY.key);
    driven.answer(DIRECT, FULL_BYTES, 80);
    expect(driven.state.current).toBe(DIRECT.key);
    driven.answer(RELAY, FULL_BYTES, 5);
    expect(driven.moves()).toEqual([RELAY.key, DIRECT.key]);
  });

  test("the LAN before any other, full size before the LAN", () => {
    const driven = new Driven(true);
    driven.targets(DIRECT, LAN, OTHER);
    driven.answer(DIRECT, FULL_BYTES, 1);
    driven.answer(LAN, FULL_BYTES, 30);
    expect(driven.state.current).toBe(LAN.key);
    const narrow = new Driven(true);
    narrow.targets(LAN, DIRECT);
    narrow.answer(LAN, SMALLER_BYTES[0], 1);
    narrow.answer(DIRECT, FULL_BYTES, 30);
    expect(narrow.state.current).toBe(DIRECT.key);
  });

  test("a faster path only when it is faster by much", () => {
    const driven = new Driven(true);
    driven.targets(DIRECT, OTHER);
    driven.answer(DIRECT, FULL_BYTES, 20);
    for (let i = 0; i < 20; i++) driven.answer(OTHER, FULL_BYTES, 18);
    expect(driven.state.current).toBe(DIRECT.key);
    for (let i = 0; i < 20; i++) driven.answer(OTHER, FULL_BYTES, 10);
    expect(driven.state.current).toBe(OTHER.key);
    for (let i = 0; i < 20; i++) driven.answer(DIRECT, FULL_BYTES, 9.5);
    expect(driven.state.current).toBe(OTHER.key);
  });

  test("and tells the peer again, as one check may be lost", () => {
    const driven = onDirect();
    driven.wait(1_500, {}, [DIRECT]);
    expect(driven.checks().filter((check) => check.nominate).length).toBeGreaterThanOrEqual(4);
  });
});

describe("stepPaths() follows", () => {
  test("a nomination once its own check was answered, and nothing else", () => {
    const driven = new Driven(false);
    driven.targets(DIRECT, LAN);
    driven.answer(LAN);
    expect(driven.state.current).toBe("wss");
    driven.asked(DIRECT, true);
    expect(driven.state.current).toBe("wss");
    driven.answer(DIRECT);
    expect(driven.state.current).toBe(DIRECT.key);
  });

  test("the last nomination", () => {
    const driven = onDirect(false);
    driven.answer(OTHER);
    driven.at += 10;
    driven.asked(OTHER, true);
    driven.answer(OTHER);
    expect(driven.state.current).toBe(OTHER.key);
  });

  test("never nominates", () => {
    const driven = onDirect(false);
    driven.wait(20_000, { sent: true, received: true }, [DIRECT]);
    expect(driven.checks().some((check) => check.nominate)).toBe(false);
  });

  test("the choosing end back to the relay at once, and anew by its next choice", () => {
    const driven = onDirect(false);
    driven.wait(5_000, { sent: true, received: true }, [DIRECT]);
    driven.step({ kind: "relayed" });
    expect(driven.state.current).toBe("wss");
    driven.wait(300, { sent: true, received: true }, [DIRECT]);
    expect(driven.state.current).toBe("wss");
    driven.step({ kind: "asked", target: DIRECT, nominated: true });
    expect(driven.state.current).toBe(DIRECT.key);
  });

  test("bug: the path is followed again at once after a late packet came by the relay", () => {
    const driven = onDirect(false);
    driven.wait(5_000, { sent: true, received: true }, [DIRECT]);
    driven.step({ kind: "relayed" });
    driven.asked(DIRECT, true);
    expect(driven.state.current).toBe(DIRECT.key);
    expect(driven.effects.some((effect) => effect.kind === "use" && effect.fromDead)).toBe(false);
  });
});

describe("bug: after a server's restart one end dropped what the other still sent by the old relay", () => {
  const NEXT = target(8, { kind: "udp-relay" });
  const both = { sent: true, received: true };

  /** An old session's relay still carries everything, and answers no check of the new session; the peer is heard on the new one. */
  function onOldRelay(chooses: boolean): Driven {
    const driven = new Driven(chooses, RELAY);
    driven.wait(10_000, both);
    driven.targets(NEXT);
    driven.asked(NEXT);
    driven.answer(NEXT, 0);
    driven.wait(1_000, both);
    return driven;
  }

  test("the end that follows stays while packets arrive, and follows the other's choice without a drop", () => {
    const driven = onOldRelay(false);
    expect(driven.state.current).toBe(RELAY.key);
    driven.answer(NEXT);
    driven.wait(1_000, both);
    expect(driven.state.current).toBe(RELAY.key);
    driven.asked(NEXT, true);
    expect(driven.state.current).toBe(NEXT.key);
    expect(driven.effects.filter((effect) => effect.kind === "use" && effect.fromDead)).toEqual([]);
  });

  test("the end that chooses moves once the new one carries full packets, and takes what still comes by the old", () => {
    const driven = onOldRelay(true);
    expect(driven.state.current).toBe(RELAY.key);
    driven.answer(NEXT);
    expect(driven.state.current).toBe(NEXT.key);
    expect(driven.effects.filter((effect) => effect.kind === "use" && effect.fromDead)).toEqual([]);
  });

  test("a new session knows that packets arrive, and does not take the old one's unanswered checks for a dead path", () => {
    for (const chooses of [true, false]) {
      const { state, at } = onOldRelay(chooses);
      const taken = { adopted: state.paths.get(RELAY.key) ?? null, heardAt: state.heardAt };
      expect(taken.adopted?.unanswered).toBeGreaterThan(4);
      const next = new Driven(chooses);
      next.at = at;
      next.state = startPaths(chooses, at, taken);
      next.targets(NEXT);
      next.asked(NEXT);
      expect([chooses, next.state.current]).toEqual([chooses, RELAY.key]);
    }
  });

  test("both give it up as ever when nothing arrives any more", () => {
    for (const chooses of [true, false]) {
      const driven = onOldRelay(chooses);
      driven.wait(2_000, { sent: true });
      expect([chooses, driven.state.current]).toEqual([chooses, "wss"]);
    }
  });
});

describe("stepPaths() and sizes", () => {
  test("finds the largest size that is answered", () => {
    const driven = new Driven(true);
    driven.targets(DIRECT);
    driven.answer(DIRECT, 0);
    const passes = SMALLER_BYTES[1] ?? 0;
    for (let i = 0; i < 100 && driven.state.current === "wss"; i++) {
      driven.effects = [];
      driven.wait(100);
      for (const { sizeBytes } of driven.checks())
        if (sizeBytes === null || sizeBytes <= passes) driven.answer(DIRECT, sizeBytes ?? 0);
    }
    expect(driven.state.paths.get(DIRECT.key)?.sizeBytes).toBe(passes);
    expect(driven.state.current).toBe(DIRECT.key);
  });

  test("checks a path in the size that it is used with", () => {
    const driven = onDirect();
    driven.wait(30_000, { sent: true, received: true }, [DIRECT]);
    expect(new Set(driven.checks().map((check) => check.sizeBytes))).toEqual(new Set([FULL_BYTES]));
  });

  test("bug: a path that takes no full packet is not checked at full speed for ever", () => {
    const driven = new Driven(true);
    driven.targets(DIRECT);
    driven.answer(DIRECT, 0);
    driven.wait(60_000);
    const asked = (): void => {
      driven.asked(DIRECT);
      driven.answer(DIRECT, 0);
    };
    driven.effects = [];
    for (let i = 0; i < 60; i++) {
      for (let echo = 0; echo < 100; echo++) asked();
      driven.wait(1_000);
    }
    expect(driven.checks().length).toBeLessThan(80);
  });
});

describe("stepPaths() is bounded", () => {
  test("an address from which the peer asks is checked in turn, not at every echo", () => {
    const driven = new Driven(true);
    expect(driven.asked(DIRECT)).toEqual([{ kind: "check", target: DIRECT, nominate: false, sizeBytes: null }]);
    for (let i = 0; i < 100; i++) expect(driven.asked(DIRECT)).toEqual([]);
  });

  test("bug: paths that were of use long ago make room for new ones", () => {
    const driven = new Driven(true);
    for (let n = 1; n <= 60; n++) {
      driven.targets(target(n));
      driven.answer(target(n));
      driven.wait(40_000);
    }
    driven.targets(LAN, OTHER);
    expect(driven.state.paths.has(OTHER.key)).toBe(true);
    for (let n = 100; n < 200; n++) driven.asked(target(n));
    expect(driven.state.paths.size).toBe(MOST_PATHS);
  });

  test("an idle session sends a few checks a minute, lone keepalives or not", () => {
    const driven = onDirect();
    driven.answer(RELAY);
    driven.wait(60_000, {}, [DIRECT, RELAY]);
    driven.effects = [];
    for (let i = 0; i < 12; i++) {
      driven.wait(100, { received: true }, [DIRECT, RELAY]);
      driven.wait(24_900, {}, [DIRECT, RELAY]);
    }
    expect(driven.checks().length / 5).toBeLessThanOrEqual(11);
  });

  test("a search for a better path is short while a direct one is in use", () => {
    const [content, seeking] = [onDirect(), new Driven(true)];
    for (const driven of [content, seeking]) {
      driven.targets(LAN);
      driven.effects = [];
      driven.step({ kind: "punch", startAt: driven.at + 100 });
      driven.wait(5_000, {}, [DIRECT]);
    }
    const toLan = (driven: Driven): number => driven.checks().filter((check) => check.target === LAN).length;
    expect([toLan(content), toLan(seeking)]).toEqual([3, 7]);
  });

  test("whatever happens, the current path is known, and every check has a target that is known", () => {
    const one = fc.constantFrom(DIRECT, OTHER, LAN, RELAY);
    const event = fc.oneof(
      fc.record({ kind: fc.constant("targets" as const), targets: fc.array(one, { maxLength: 4 }) }),
      fc.record({ kind: fc.constant("punch" as const), startAt: fc.nat(100_000) }),
      fc.record({
        kind: fc.constant("answered" as const),
        key: one.map((path) => path.key),
        rttMs: fc.nat(500),
        sizeBytes: fc.constantFrom(0, FULL_BYTES, ...SMALLER_BYTES),
      }),
      fc.record({ kind: fc.constant("asked" as const), target: one, nominated: fc.boolean() }),
      fc.record({ kind: fc.constantFrom("relayed" as const, "network-changed" as const) }),
      fc.record({
        kind: fc.constant("tick" as const),
        sent: fc.boolean(),
        received: fc.boolean(),
        idleMs: fc.integer({ min: 2_000, max: 25_000 }),
      }),
    );
    fc.assert(
      fc.property(fc.boolean(), fc.array(fc.tuple(event, fc.nat(2_000)), { maxLength: 60 }), (chooses, events) => {
        const driven = new Driven(chooses);
        for (const [next, ms] of events) {
          driven.at += ms;
          const effects = driven.step(next);
          const { current, paths } = driven.state;
          expect(current === "wss" || paths.has(current)).toBe(true);
          for (const effect of effects) if (effect.kind === "check") expect(paths.has(effect.target.key)).toBe(true);
        }
      }),
      { numRuns: 300 },
    );
  });
});
