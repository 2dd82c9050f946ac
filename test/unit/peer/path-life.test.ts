// When a path is given up, when it is not whatever happens, and a living one that is taken over.
import { describe, expect, test } from "bun:test";
import { FULL_BYTES } from "../../../src/peer/path-check.ts";
import { DIRECT, Driven, onDirect, RELAY, target } from "./driven-paths.ts";

describe("stepPaths() falls back", () => {
  for (const chooses of [true, false]) {
    test(`within 700 ms when traffic waits and nothing is answered (chooses: ${chooses})`, () => {
      const driven = onDirect(chooses);
      driven.wait(10_000, { sent: true, received: true }, [DIRECT]);
      driven.wait(700, { sent: true });
      expect(driven.state.current).toBe("wss");
    });

    test(`never while packets arrive and nobody answers: the peer's process is gone, its WireGuard is not (chooses: ${chooses})`, () => {
      const driven = onDirect(chooses);
      driven.wait(10_000, { sent: true, received: true }, [DIRECT]);
      driven.wait(120_000, { sent: true, received: true });
      expect(driven.moves()).toEqual([]);
    });

    test(`although packets arrive, when the peer asks and our checks are lost (chooses: ${chooses})`, () => {
      const driven = onDirect(chooses);
      driven.wait(10_000, { sent: true, received: true }, [DIRECT]);
      for (let i = 0; i < 10; i++) {
        driven.wait(1_000, { sent: true, received: true });
        driven.asked(DIRECT, !chooses);
      }
      expect(driven.moves()).toEqual(["wss"]);
    });

    test(`not to a relay that leads nowhere, and at once when it does again (chooses: ${chooses})`, () => {
      const driven = onDirect(chooses);
      driven.step({ kind: "relay", canRelay: false });
      driven.wait(20_000, { sent: true });
      expect(driven.moves()).toEqual([]);
      const before = driven.checks().length;
      driven.wait(60_000, { sent: true });
      expect(driven.checks().length - before).toBeLessThanOrEqual(61);
      driven.step({ kind: "relay", canRelay: true });
      expect(driven.moves()).toEqual(["wss"]);
    });

    test(`bug: what the relay brings is no sign of life of the path (chooses: ${chooses})`, () => {
      const driven = onDirect(chooses);
      driven.wait(10_000, { sent: true, received: true }, [DIRECT]);
      for (let i = 0; i < 8; i++) {
        driven.step({ kind: "relayed" });
        driven.wait(100, { received: true });
      }
      expect(driven.state.current).toBe("wss");
    });
  }

  test("half a second after traffic that only came in has stopped, if its pause is not answered", () => {
    const driven = onDirect();
    driven.wait(10_000, { received: true }, [DIRECT]);
    driven.wait(800);
    expect(driven.moves()).toEqual(["wss"]);
  });

  test("not for pauses in traffic, each of which costs one check", () => {
    const driven = onDirect();
    driven.wait(3_000, { sent: true, received: true }, [DIRECT]);
    driven.effects = [];
    for (let i = 0; i < 10; i++) {
      driven.wait(200, { sent: true, received: true }, [DIRECT]);
      driven.wait(700, {}, [DIRECT]);
    }
    expect(driven.moves()).toEqual([]);
    expect(driven.checks().length).toBeLessThanOrEqual(14);
  });

  test("not at all for a silent peer that answers checks", () => {
    const driven = onDirect();
    driven.wait(60_000, { sent: true }, [DIRECT]);
    expect(driven.moves()).toEqual([]);
  });

  test("not before three round trips of a slow path", () => {
    const driven = new Driven(true);
    driven.targets(DIRECT);
    driven.answer(DIRECT, FULL_BYTES, 800);
    driven.wait(2_300, { sent: true });
    expect(driven.state.current).toBe(DIRECT.key);
    driven.wait(800, { sent: true });
    expect(driven.state.current).toBe("wss");
  });

  test("bug: a slow path outlives a change of the network", () => {
    const driven = new Driven(true);
    driven.targets(DIRECT);
    driven.answer(DIRECT, FULL_BYTES, 800);
    driven.step({ kind: "network-changed" });
    driven.wait(900);
    driven.answer(DIRECT, 0, 800);
    driven.answer(DIRECT, FULL_BYTES, 800);
    expect(driven.state.current).toBe(DIRECT.key);
    expect(driven.moves()).toEqual([DIRECT.key]);
  });

  test("to the UDP relay when it answered meanwhile", () => {
    const driven = onDirect();
    driven.answer(RELAY);
    driven.wait(5_000, { sent: true, received: true }, [DIRECT, RELAY]);
    driven.wait(900, { sent: true }, [RELAY]);
    expect(driven.state.current).toBe(RELAY.key);
  });

  test("bug: for good, although packets came until a moment ago: what is kept of a dead path hides the next one", () => {
    const driven = onDirect();
    driven.wait(10_000, { sent: true, received: true }, [DIRECT]);
    driven.wait(300, { sent: true });
    driven.answer(RELAY);
    driven.wait(500, { sent: true });
    const uses = driven.effects.flatMap((effect) => (effect.kind === "use" ? [effect] : []));
    expect([uses[0]?.to?.target.key, uses[0]?.fromDead]).toEqual([RELAY.key, true]);
  });

  test("bug: never to a UDP relay that is as dead", () => {
    const driven = onDirect();
    driven.answer(RELAY);
    driven.wait(5_000, { sent: true, received: true }, [DIRECT, RELAY]);
    driven.effects = [];
    driven.wait(20_000, { sent: true });
    expect(driven.moves()).toEqual(["wss"]);
  });

  test("and tries what it lost every few seconds, for some minutes", () => {
    const driven = onDirect();
    driven.wait(1_000, { sent: true });
    expect(driven.state.current).toBe("wss");
    driven.wait(10_000);
    driven.effects = [];
    driven.wait(60_000);
    expect(driven.checks().length).toBe(12);
    driven.answer(DIRECT, 0);
    driven.answer(DIRECT);
    expect(driven.state.current).toBe(DIRECT.key);
    driven.wait(1_000, { sent: true });
    driven.wait(310_000);
    driven.effects = [];
    driven.wait(60_000);
    expect(driven.checks()).toEqual([]);
  });

  test("also without traffic, a little later", () => {
    const driven = onDirect();
    driven.wait(30_000);
    expect(driven.state.current).toBe("wss");
  });
});

describe("stepPaths() that took a living tunnel over", () => {
  for (const chooses of [true, false]) {
    test(`stays where it is, and checks it at once (chooses: ${chooses})`, () => {
      const driven = new Driven(chooses, DIRECT);
      driven.wait(100, { sent: true, received: true });
      expect(driven.checks()).toEqual([{ kind: "check", target: DIRECT, nominate: chooses, sizeBytes: FULL_BYTES }]);
      driven.targets(RELAY, DIRECT);
      driven.answer(RELAY);
      driven.wait(60_000, { sent: true, received: true }, [DIRECT, RELAY]);
      expect(driven.moves()).toEqual([]);
    });

    test(`leaves it when nothing comes by it (chooses: ${chooses})`, () => {
      const driven = new Driven(chooses, DIRECT);
      driven.wait(800, { sent: true });
      expect(driven.moves()).toEqual(["wss"]);
    });
  }

  test("leaves the relay port of an earlier session, whose lease ends, for that of this one", () => {
    const old = target(8, { kind: "udp-relay" });
    const driven = new Driven(true, old);
    driven.targets(RELAY);
    driven.answer(RELAY);
    driven.wait(30_000, { sent: true, received: true }, [RELAY]);
    expect(driven.moves()).toEqual([RELAY.key]);
  });
});
