// Two machines, a server and routers of any kind on the little internet, and what tests ask of them.
import { afterEach, beforeEach, expect, jest } from "bun:test";
import type { Endpoint, IpAddress } from "../../src/base/ip.ts";
import type { PathKind } from "../../src/peer/path-info.ts";
import { type EndName, FakeInternet, FakeServer, STUN_PORTS, until } from "./fake-internet.ts";
import { FakeMachine, type MachineOptions } from "./fake-machine.ts";
import { FakeNat, type NatKind } from "./fake-nat.ts";

export const ip = (text: string): IpAddress => text as IpAddress;
const stack: (() => Promise<void>)[] = [];

/** Minutes pass in milliseconds; every machine of a test ends with it. */
export function useLittleInternet(): void {
  beforeEach(() => {
    jest.useFakeTimers({ now: 1_700_000_000_000 });
  });
  afterEach(async () => {
    for (const end of stack.splice(0).reverse()) await end();
    jest.useRealTimers();
  });
}

export interface Scene {
  readonly net: FakeInternet;
  readonly server: FakeServer;
  readonly a: FakeMachine;
  readonly b: FakeMachine;
}

export type SceneOptions = Partial<Pick<MachineOptions, "relay" | "allowed">> & {
  readonly sameLan?: boolean;
  readonly allowedAt?: Partial<Record<EndName, readonly PathKind[]>>;
  readonly guessesAt?: Partial<Record<EndName, boolean>>;
  readonly before?: (scene: Scene) => void;
};

export async function scene(natA: NatKind, natB: NatKind, options: SceneOptions = {}): Promise<Scene> {
  const net = new FakeInternet();
  const server = new FakeServer(net);
  const now = (): number => performance.now();
  const { random } = net;
  const { sameLan, before, allowedAt, guessesAt, ...common } = options;
  const rest = (end: EndName) => ({
    ...common,
    end,
    guesses: guessesAt?.[end] ?? true,
    ...(allowedAt?.[end] === undefined ? {} : { allowed: allowedAt[end] }),
  });
  const routerA = new FakeNat(natA, { publicAddress: ip("198.51.100.1"), now, random });
  const routerB = sameLan === true ? routerA : new FakeNat(natB, { publicAddress: ip("198.51.100.2"), now, random });
  const a = new FakeMachine(net, server, { ...rest("a"), address: ip("192.168.1.2"), nat: routerA, lan: "a" });
  const place = sameLan === true ? { address: ip("192.168.1.3"), lan: "a" } : { address: ip("10.0.7.2"), lan: "b" };
  const b = new FakeMachine(net, server, { ...rest("b"), ...place, nat: routerB });
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

export function kinds({ a, b }: Scene): string {
  return `${a.kind} ${b.kind}`;
}

export async function settled(
  natA: NatKind = "port-r",
  natB: NatKind = "port-r",
  options: SceneOptions = {},
): Promise<Scene> {
  const made = await scene(natA, natB, options);
  await until(() => kinds(made) === "direct direct", 3_000);
  expect(kinds(made)).toBe("direct direct");
  return made;
}

/** Loses what goes directly between the two ends, in these directions. */
export function loseDirect({ net }: Scene, directions: readonly ("a" | "b")[] = ["a", "b"]): void {
  net.delayMs = ({ from, to }) => {
    const isServer = from.address.startsWith("203.") || to.address.startsWith("203.");
    if (isServer) return 10;
    const isFromA = from.address === "198.51.100.1" || from.address === "192.168.1.2";
    return directions.includes(isFromA ? "a" : "b") ? null : 10;
  };
}

/** Questions to the server's STUN ports are none. */
export function checksSince({ net }: Scene, at: number, from: string): number {
  const isCheck = ({ bytes, to }: { readonly bytes: Uint8Array; readonly to: Endpoint }): boolean =>
    bytes[4] === 0x21 && !STUN_PORTS.includes(to.port);
  return net.sent.filter((one) => one.at >= at && one.datagram.from.address === from && isCheck(one.datagram)).length;
}

export const PLACE_C = { address: ip("172.20.0.9"), lan: "c" };
