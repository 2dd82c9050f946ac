import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { type Endpoint, parseEndpoint } from "../../../../src/base/ip.ts";
import {
  DOUBT_MS,
  type End,
  freshRelay,
  LEASE_MS,
  type Link,
  MIXED_MS,
  type RelayEffect,
  type RelayEvent,
  type RelayState,
  RENEW_MS,
  sameEndpoint,
  stepRelay,
} from "../../../../src/server/udp-relay/state.ts";
import { check } from "../../support/property.ts";

const at = (text: string): Endpoint => parseEndpoint(text) ?? { address: "0.0.0.0" as never, port: 1 };
const A4 = at("192.0.2.1:1111");
const B4 = at("198.51.100.2:2222");
const A6 = at("[2001:db8:a::1]:1111");
const B6 = at("[2001:db8:b::2]:2222");
const MOVED = at("192.0.2.1:3333");

type Body = RelayEvent extends infer E ? (E extends RelayEvent ? Omit<E, "at" | "nextId"> : never) : never;

/** A session whose ends are where they are told to be: those of `reachable` answer every challenge. */
class Scene {
  state: RelayState;
  now = 1000;
  readonly reachable = new Set<Endpoint>();
  readonly challenged: Endpoint[] = [];
  readonly forwarded: (readonly Link[])[] = [];
  readonly renewed: (readonly Link[])[] = [];
  answered = 0;
  #ids = 0;

  constructor(native: readonly (4 | 6)[] = [4, 6]) {
    this.state = freshRelay(new Set(native));
  }

  step(body: Body): readonly RelayEffect[] {
    const nextId = (): Uint8Array => {
      const id = new Uint8Array(12);
      new DataView(id.buffer).setUint32(0, ++this.#ids);
      return id;
    };
    const { state, effects } = stepRelay(this.state, { ...body, at: this.now, nextId });
    this.state = state;
    for (const effect of effects) this.#obey(effect);
    return effects;
  }

  #obey(effect: RelayEffect): void {
    switch (effect.kind) {
      case "challenge": {
        this.challenged.push(effect.to);
        const { end, to, transactionId } = effect;
        if ([...this.reachable].some((one) => sameEndpoint(one, to)))
          this.step({ kind: "answer", end, from: to, transactionId });
        return;
      }
      case "answer":
        this.answered++;
        return;
      case "forward":
        this.forwarded.push(effect.links);
        this.step({ kind: "forwarding", links: effect.links });
        return;
      case "renew":
        this.renewed.push(effect.links);
    }
  }

  ask(end: End, from: Endpoint): void {
    this.step({ kind: "request", end, from, transactionId: new Uint8Array(12) });
  }

  /** Ticks as the service does. */
  wait(ms: number): void {
    for (const until = this.now + ms; this.now < until; ) {
      this.now += 250;
      this.step({ kind: "tick" });
    }
  }

  get links(): readonly Link[] {
    return this.state.active.map(({ ends }) => ({ ends }));
  }
}

function linked(): Scene {
  const scene = new Scene();
  scene.reachable.add(A4).add(B4);
  scene.ask(0, A4);
  scene.ask(1, B4);
  expect(scene.links).toEqual([{ ends: [A4, B4] }]);
  return scene;
}

describe("stepRelay()", () => {
  test("links two ends once both have answered a challenge at the very address that they asked from", () => {
    const scene = new Scene();
    scene.reachable.add(A4);
    scene.ask(0, A4);
    scene.ask(1, B4);
    expect(scene.challenged).toEqual([A4, B4]);
    expect(scene.links).toEqual([]);
    scene.reachable.add(B4);
    scene.ask(1, B4);
    expect(scene.links).toEqual([{ ends: [A4, B4] }]);
    expect(scene.answered).toBe(3);
  });

  test("takes no answer from elsewhere, of the other end, to nothing that was asked, or twice", () => {
    const scene = new Scene();
    const [, challenge] = scene.step({ kind: "request", end: 0, from: A4, transactionId: new Uint8Array(12) });
    if (challenge?.kind !== "challenge") throw new Error("no challenge");
    const { transactionId } = challenge;
    const wrong: Body[] = [
      { kind: "answer", end: 1, from: A4, transactionId },
      { kind: "answer", end: 0, from: A4, transactionId: new Uint8Array(12).fill(9) },
    ];
    for (const body of wrong) scene.step(body);
    expect(scene.state.latches[0][4]).toBeNull();
    scene.step({ kind: "answer", end: 0, from: MOVED, transactionId });
    expect(scene.state.latches[0][4]).toBeNull();
    // It was used up; from where it came there is a challenge of its own now.
    expect(scene.challenged).toEqual([A4, MOVED]);
    scene.step({ kind: "answer", end: 0, from: A4, transactionId });
    expect(scene.state.latches[0][4]).toBeNull();
  });

  test("renews a lease while both ends answer, and ends it when one does not", () => {
    const scene = linked();
    scene.wait(3 * RENEW_MS + 2000);
    expect(scene.renewed.length).toBeGreaterThanOrEqual(2);
    scene.reachable.delete(B4);
    const before = scene.renewed.length;
    scene.wait(LEASE_MS + RENEW_MS);
    expect(scene.renewed.length).toBeLessThanOrEqual(before + 1);
    expect(scene.forwarded.at(-1)).toEqual([]);
    expect(scene.links).toEqual([]);
    expect(scene.state.challenges.size).toBeLessThanOrEqual(24);
  });

  test("follows an end that moved, once its old address is silent, and not before", () => {
    const scene = linked();
    scene.reachable.add(MOVED);
    scene.ask(0, MOVED);
    scene.wait(5000);
    expect(scene.links).toEqual([{ ends: [A4, B4] }]);
    scene.reachable.delete(A4);
    scene.ask(0, MOVED);
    scene.wait(DOUBT_MS + 250);
    expect(scene.links).toEqual([{ ends: [MOVED, B4] }]);
  });

  test("is not led away by requests that are sent again from a stranger's address", () => {
    const scene = linked();
    const stranger = at("203.0.113.9:9");
    for (let i = 0; i < 100; i++) {
      scene.ask(0, stranger);
      scene.wait(250);
    }
    expect(scene.links).toEqual([{ ends: [A4, B4] }]);
    expect(scene.state.suitors[0].length).toBeLessThanOrEqual(4);
  });

  test("has a link for each family that both ends have", () => {
    const scene = linked();
    scene.reachable.add(A6).add(B6);
    scene.ask(0, A6);
    scene.ask(1, B6);
    expect(scene.links).toEqual([{ ends: [A4, B4] }, { ends: [A6, B6] }]);
  });

  test("links ends of two families when no common one turns up, and leaves that for a common one", () => {
    const scene = new Scene();
    scene.reachable.add(A4).add(B4).add(B6);
    scene.ask(0, A4);
    scene.ask(1, B6);
    expect(scene.links).toEqual([]);
    scene.wait(MIXED_MS);
    expect(scene.links).toEqual([{ ends: [A4, B6] }]);
    scene.ask(1, B4);
    expect(scene.links).toEqual([{ ends: [A4, B4] }]);
  });

  test("waits for a native family before it takes another, and leaves that one alone once it is there", () => {
    const quick = new Scene([4]);
    quick.reachable.add(A4).add(B4).add(A6).add(B6);
    for (const [end, place] of [[0, A6] as const, [1, B6] as const]) quick.ask(end, place);
    expect(quick.links).toEqual([]);
    for (const [end, place] of [[0, A4] as const, [1, B4] as const]) quick.ask(end, place);
    quick.wait(5000);
    expect(quick.links).toEqual([{ ends: [A4, B4] }]);

    const late = new Scene([4]);
    late.reachable.add(A4).add(B4).add(A6).add(B6);
    for (const [end, place] of [[0, A6] as const, [1, B6] as const]) late.ask(end, place);
    late.wait(MIXED_MS);
    expect(late.links).toEqual([{ ends: [A6, B6] }]);
    for (const [end, place] of [[0, A4] as const, [1, B4] as const]) late.ask(end, place);
    expect(late.links).toEqual([{ ends: [A4, B4] }, { ends: [A6, B6] }]);
  });

  test("does not count on a mechanism that has not said that it forwards, nor on one that is late", () => {
    const scene = linked();
    const old = scene.links;
    scene.wait(LEASE_MS);
    scene.reachable.clear();
    scene.wait(LEASE_MS);
    expect(scene.links).toEqual([]);
    scene.step({ kind: "forwarding", links: old });
    expect(scene.links).toEqual([]);
  });

  test("forwards only between addresses that answered a challenge within the lease, whatever happens", () => {
    const places = [A4, B4, A6, B6, MOVED, at("203.0.113.9:9")];
    const action = fc.record({
      do: fc.constantFrom<"ask" | "reach" | "lose" | "wait">("ask", "reach", "lose", "wait"),
      end: fc.constantFrom<End>(0, 1),
      place: fc.nat(places.length - 1),
      ms: fc.constantFrom(250, 1000, 30_000),
    });
    check(
      fc.property(fc.array(action, { maxLength: 40 }), (actions) => {
        const scene = new Scene();
        const wasReachable = new Map<Endpoint, number>();
        for (const one of actions) {
          const place = places[one.place] ?? A4;
          if (one.do === "ask") scene.ask(one.end, place);
          else if (one.do === "reach") scene.reachable.add(place);
          else if (one.do === "lose") scene.reachable.delete(place);
          else scene.wait(one.ms);
          for (const reachable of scene.reachable) wasReachable.set(reachable, scene.now);
          for (const link of scene.links) {
            for (const end of link.ends) {
              const since = [...wasReachable].find(([known]) => sameEndpoint(known, end))?.[1] ?? -LEASE_MS * 2;
              expect(scene.now - since).toBeLessThanOrEqual(LEASE_MS + 1000);
            }
          }
        }
      }),
    );
  });
});
