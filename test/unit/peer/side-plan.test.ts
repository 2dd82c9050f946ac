import { describe, expect, test } from "bun:test";
import type { IpAddress } from "../../../src/base/ip.ts";
import type { Nat } from "../../../src/proto/path.ts";
import {
  foreseenOf,
  guessedPorts,
  mappingOf,
  maySeek,
  MOST_PROBES,
  type NatMapping,
  nextStage,
  type Stage,
} from "../../../src/peer/side-plan.ts";
import type { Reflexive } from "../../../src/peer/stun-client.ts";

const at = (address: string, port: number) => ({ address: address as IpAddress, port });

/** What one server's ports saw, in their order; null for no answer. */
function seen(ports: readonly (number | null)[], address = "198.51.100.1"): Reflexive[] {
  return ports.map((port, i) => ({
    server: at("203.0.113.10", 3478 + i),
    mapped: port === null ? null : at(address, port),
    rttMs: 1,
  }));
}

const MAPPINGS: readonly NatMapping[] = ["preserved", "independent", "sequential", "random"];
const nat = (mapping: NatMapping, more: Partial<Nat> = {}): Nat => ({ mapping, guesses: true, open: 0, ...more });

describe("mappingOf()", () => {
  test.each([
    [[51_820, 51_820], "preserved"],
    [[40_000, 40_000], "independent"],
    [[40_000, 40_001], "sequential"],
    [[40_000, 39_998], "sequential"],
    [[40_000, 40_009], "random"],
    [[40_000, 12_345], "random"],
    [[40_000, null], null],
    [[null, null], null],
    [[], null],
  ] as const)("calls %p %p", (ports, expected) => {
    expect(mappingOf(seen(ports), 51_820)).toBe(expected);
  });

  test("looks at IPv4 and at the ports of one server only", () => {
    const six: Reflexive = { server: at("2001:db8::1", 1), mapped: at("2001:db8::2", 1), rttMs: 1 };
    const other: Reflexive = { server: at("192.0.2.1", 3478), mapped: at("198.51.100.1", 7), rttMs: 1 };
    expect(mappingOf([six, six], 1)).toBeNull();
    expect(mappingOf([other, ...seen([9, 9])], 9)).toBe("preserved");
  });

  test("a router with several addresses is not foreseen", () => {
    const [first, second] = [...seen([40_000]), ...seen([0, 40_001], "198.51.100.2").slice(1)];
    expect(mappingOf(first !== undefined && second !== undefined ? [first, second] : [], 1)).toBe("random");
  });
});

describe("foreseenOf()", () => {
  test("goes on in the row, up or down, within the ports that there are", () => {
    expect(foreseenOf(seen([40_000, 40_002]))?.map(({ port }) => port)).toEqual([
      40_004, 40_006, 40_008, 40_010, 40_012, 40_014, 40_016, 40_018,
    ]);
    expect(foreseenOf(seen([4, 3]))?.map(({ port }) => port)).toEqual([2, 1]);
    expect(foreseenOf(seen([65_533, 65_534]))?.map(({ port }) => port)).toEqual([65_535]);
    expect(foreseenOf(seen([40_000, 50_000]))).toBeNull();
    expect(foreseenOf(seen([40_000]))).toBeNull();
  });
});

describe("nextStage()", () => {
  /** What an end does from first to last. */
  function ladder(own: NatMapping | null, peer: Nat | null, mayGuess = true): string {
    const done: Stage[] = [];
    for (let stage = nextStage({ own, peer, mayGuess }, done); stage !== null; ) {
      done.push(stage);
      stage = nextStage({ own, peer, mayGuess }, done);
    }
    return done.join(" ");
  }

  test("is this for each pair of routers", () => {
    const table = MAPPINGS.map((own) => MAPPINGS.map((peer) => ladder(own, nat(peer))));
    expect(table).toEqual([
      ["fresh fresh fresh fresh", "fresh fresh", "", ""],
      ["fresh fresh guessed", "fresh fresh guessed", "", ""],
      ["predicted guessed", "predicted guessed", "", ""],
      ["guessed", "guessed", "", ""],
    ]);
  });

  test("guesses only where a person at both ends allows it, and does nothing with a peer that has not told", () => {
    expect(ladder("random", nat("preserved"), false)).toBe("");
    expect(ladder("sequential", nat("preserved", { guesses: false }))).toBe("predicted");
    for (const own of MAPPINGS) expect(ladder(own, null)).toBe("");
    expect(ladder(null, nat("preserved"))).toBe("");
  });
});

test("maySeek() only open ports of another kind of router than one's own", () => {
  const may = (own: NatMapping, peer: NatMapping, more: Partial<Nat> = { open: 256 }, mayGuess = true) =>
    maySeek({ own, peer: nat(peer, more), mayGuess });
  expect(may("preserved", "random")).toBe(true);
  expect(may("independent", "independent")).toBe(true);
  expect([may("random", "random"), may("sequential", "random"), may("random", "independent")]).toEqual([
    false,
    false,
    false,
  ]);
  expect([
    may("preserved", "preserved"),
    may("preserved", "random", {}),
    may("preserved", "random", { open: 1 }, false),
  ]).toEqual([false, false, false]);
});

describe("guessedPorts()", () => {
  let seed = 1;
  const random = (): number => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) & 0x7fff_ffff;
    return (seed >>> 8) / 0x80_0000;
  };

  test("gives 2048 ports, each once, the neighbours of those that were seen first", () => {
    const ports = [...guessedPorts([30_100, 30_700], random)];
    expect(ports).toHaveLength(MOST_PROBES);
    expect(new Set(ports).size).toBe(MOST_PROBES);
    const first = ports.slice(0, 150);
    expect(first.every((port) => Math.abs(port - 30_100) <= 256 || Math.abs(port - 30_700) <= 256)).toBe(true);
    expect(Math.min(...ports)).toBeGreaterThanOrEqual(1_024);
    expect(Math.max(...ports)).toBeLessThanOrEqual(65_535);
    expect(ports.filter((port) => port > 40_000).length).toBeGreaterThan(500);
  });

  test("stays among the ports that there are next to either end", () => {
    for (const near of [1_030, 65_530]) {
      const ports = [...guessedPorts([near], random)];
      expect(new Set(ports).size).toBe(MOST_PROBES);
      expect(ports.every((port) => port >= 1_024 && port <= 65_535)).toBe(true);
    }
  });

  test("meets one of 256 ports nearly always, and one of a small block at once", () => {
    let [met, early] = [0, 0];
    for (let run = 0; run < 200; run++) {
      const wide = new Set(Array.from({ length: 256 }, () => 1_024 + Math.floor(random() * 64_512)));
      if ([...guessedPorts([5_000], random)].some((port) => wide.has(port))) met++;
      const block = new Set(Array.from({ length: 256 }, () => 30_000 + Math.floor(random() * 1_000)));
      if ([...guessedPorts([30_500], random)].slice(0, 50).some((port) => block.has(port))) early++;
    }
    expect(met).toBeGreaterThan(195);
    expect(early).toBeGreaterThan(195);
  });
});
