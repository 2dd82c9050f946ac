// A state of paths that is driven by events, and what tests ask of it.
import { expect } from "bun:test";
import type { IpAddress } from "../../../src/base/ip.ts";
import { FULL_BYTES } from "../../../src/peer/path-check.ts";
import { adopted, type PathTarget } from "../../../src/peer/path-info.ts";
import {
  type PathEffect,
  type PathEvent,
  type PathState,
  startPaths,
  stepPaths,
} from "../../../src/peer/path-state.ts";

/** As where nothing was measured. */
export const IDLE_MS = 20_000;

export function target(n: number, more: Partial<PathTarget> = {}): PathTarget {
  const endpoint = { address: `198.51.100.${n}` as IpAddress, port: 51820 };
  return { key: `${endpoint.address}:51820`, kind: "direct", endpoint, lan: false, ...more };
}

export const DIRECT = target(1);
export const OTHER = target(2);
export const LAN = target(3, { lan: true });
export const RELAY = target(9, { kind: "udp-relay" });

/** A state that is driven by events, with what it asked for. */
export class Driven {
  state: PathState;
  at = 0;
  effects: PathEffect[] = [];

  constructor(chooses: boolean, carrying: PathTarget | null = null) {
    this.state = startPaths(chooses, 0, carrying === null ? {} : { adopted: adopted(carrying, 0) });
  }

  step(event: Record<string, unknown> & { kind: PathEvent["kind"] }): readonly PathEffect[] {
    const stepped = stepPaths(this.state, { at: this.at, ...event } as PathEvent);
    this.state = stepped.state;
    this.effects.push(...stepped.effects);
    return stepped.effects;
  }

  targets(...targets: PathTarget[]): void {
    this.step({ kind: "targets", targets });
  }

  answer(one: PathTarget, sizeBytes = FULL_BYTES, rttMs = 20): readonly PathEffect[] {
    return this.step({ kind: "answered", key: one.key, rttMs, sizeBytes });
  }

  asked(one: PathTarget, nominated = false): readonly PathEffect[] {
    return this.step({ kind: "asked", target: one, nominated });
  }

  /** Ticks of 100 ms. */
  wait(ms: number, traffic: { sent?: boolean; received?: boolean } = {}, answering: readonly PathTarget[] = []): void {
    for (const end = this.at + ms; this.at < end; ) {
      this.at += 100;
      const asked = this.step({ kind: "tick", sent: false, received: false, idleMs: IDLE_MS, ...traffic });
      for (const one of answering) {
        const check = asked.find((effect) => effect.kind === "check" && effect.target.key === one.key);
        if (check?.kind === "check") this.answer(one, check.sizeBytes ?? 0);
      }
    }
  }

  checks(): readonly Extract<PathEffect, { kind: "check" }>[] {
    return this.effects.filter((effect) => effect.kind === "check");
  }

  moves(): readonly string[] {
    return this.effects.flatMap((effect) => (effect.kind === "use" ? [effect.to?.target.key ?? "wss"] : []));
  }
}

/** The end that chooses, on a direct path in full size. */
export function onDirect(chooses = true): Driven {
  const driven = new Driven(chooses);
  driven.targets(RELAY, DIRECT);
  if (!chooses) driven.asked(DIRECT, true);
  driven.answer(DIRECT);
  expect(driven.state.current).toBe(DIRECT.key);
  driven.effects = [];
  return driven;
}
