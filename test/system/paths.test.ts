// Two machines find their ways to each other over a little internet in which minutes pass in milliseconds.
import { afterEach, beforeEach, describe, expect, jest, test } from "bun:test";
import type { IpAddress } from "../../src/base/ip.ts";
import { advance, FakeInternet, FakeServer, until } from "./fake-internet.ts";
import { FakeMachine, type MachineOptions } from "./fake-machine.ts";
import { FakeNat, NAT_KINDS, type NatKind } from "./fake-nat.ts";

const ip = (text: string): IpAddress => text as IpAddress;
const stack: (() => Promise<void>)[] = [];

beforeEach(() => {
  jest.useFakeTimers({ now: 1_700_000_000_000 });
});
afterEach(async () => {
  for (const end of stack.splice(0).reverse()) await end();
  jest.useRealTimers();
});

interface Scene {
  readonly net: FakeInternet;
  readonly server: FakeServer;
  readonly a: FakeMachine;
  readonly b: FakeMachine;
}

type SceneOptions = Partial<Pick<MachineOptions, "relay" | "allowed">> & {
  readonly sameLan?: boolean;
  readonly before?: (scene: Scene) => void;
};

async function scene(natA: NatKind, natB: NatKind, options: SceneOptions = {}): Promise<Scene> {
  const net = new FakeInternet();
  const server = new FakeServer(net);
  const now = (): number => performance.now();
  const { random } = net;
  const { sameLan, before, ...rest } = options;
  const routerA = new FakeNat(natA, { publicAddress: ip("198.51.100.1"), now, random });
  const routerB = sameLan === true ? routerA : new FakeNat(natB, { publicAddress: ip("198.51.100.2"), now, random });
  const a = new FakeMachine(net, server, { ...rest, end: "a", address: ip("192.168.1.2"), nat: routerA, lan: "a" });
  const place = sameLan === true ? { address: ip("192.168.1.3"), lan: "a" } : { address: ip("10.0.7.2"), lan: "b" };
  const b = new FakeMachine(net, server, { ...rest, ...place, end: "b", nat: routerB });
  a.other = b;
  b.other = a;
  const made = { net, server, a, b };
  before?.(made);
  stack.push(async () => {
    await Promise.all([stopped(a), stopped(b)]);
  });
  await a.start();
  await b.start();
  return made;
}

/** Loops wait on fake time, so it must go on while they end. */
async function stopped(machine: FakeMachine): Promise<void> {
  await machine.stop();
}

function kinds({ a, b }: Scene): string {
  return `${a.kind} ${b.kind}`;
}

/** nat.md 1.4 without prediction: who is behind a router that nobody can foresee reaches only those whose router lets anybody answer. */
function reaches(a: NatKind, b: NatKind): "direct" | "udp-relay" | "wss" {
  if (a === "udp-block" || b === "udp-block") return "wss";
  const isHard = (kind: NatKind): boolean => kind.startsWith("sym-");
  const isStrict = (kind: NatKind): boolean => isHard(kind) || kind === "port-r" || kind === "eim-np";
  return (isHard(a) && isStrict(b)) || (isHard(b) && isStrict(a)) ? "udp-relay" : "direct";
}

describe("openPaths() reaches what simultaneous open can reach", () => {
  for (const natA of NAT_KINDS) {
    for (const natB of NAT_KINDS) {
      const expected = reaches(natA, natB);
      test(`${natA} and ${natB}: ${expected}`, async () => {
        const made = await scene(natA, natB);
        const took = await until(() => kinds(made) === `${expected} ${expected}`, 2_000);
        expect({ kinds: kinds(made), withinTwoSeconds: took !== null }).toEqual({
          kinds: `${expected} ${expected}`,
          withinTwoSeconds: true,
        });
        await advance(5_000, 10);
        expect(kinds(made)).toBe(`${expected} ${expected}`);
      });
    }
  }
});
