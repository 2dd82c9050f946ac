// Whom a node's tunnel holds when sessions end, or go with their server.
import { expect, test } from "bun:test";
import type { Membership } from "../../../src/peer/membership.ts";
import { SessionPeers } from "../../../src/node/session-peers.ts";

interface World {
  readonly sessions: Map<string, { readonly id: number }>;
  readonly known: Set<string>;
  readonly control: { online: boolean };
}

function world(): World {
  return { sessions: new Map([["a", { id: 1 }]]), known: new Set(["a", "b"]), control: { online: true } };
}

function asMembership({ sessions, known, control }: World): Pick<Membership, "sessions" | "map" | "control"> {
  const machine = { wireGuard: "key", addresses: ["10.64.0.2"], routes: [] };
  const map = { get: (id: string) => (known.has(id) ? { id, name: id, machine } : undefined) };
  return { sessions, map, control } as unknown as Pick<Membership, "sessions" | "map" | "control">;
}

function held(peers: SessionPeers, from: World): readonly string[] {
  return peers.of(asMembership(from)).map(({ id, session }) => `${id} ${session === null ? "waits" : session.id}`);
}

test("SessionPeers drops a machine whose session was ended at once", () => {
  using peers = new SessionPeers(() => undefined);
  const now = world();
  expect(held(peers, now)).toEqual(["a 1"]);
  now.sessions.clear();
  expect(held(peers, now)).toEqual([]);
});

test("SessionPeers keeps a machine whose session went with its server, until it has the next one", () => {
  using peers = new SessionPeers(() => undefined);
  const now = world();
  held(peers, now);
  now.control.online = false;
  expect(held(peers, now)).toEqual(["a 1"]);
  now.control.online = true;
  expect(held(peers, now)).toEqual(["a 1"]);
  now.sessions.clear();
  expect(held(peers, now)).toEqual(["a waits"]);
  now.sessions.set("b", { id: 7 });
  expect(held(peers, now)).toEqual(["b 7", "a waits"]);
  now.sessions.set("a", { id: 8 });
  expect(held(peers, now)).toEqual(["b 7", "a 8"]);
  now.sessions.delete("a");
  expect(held(peers, now)).toEqual(["b 7"]);
});

test("SessionPeers drops a machine that is known no more, also while it waits", () => {
  using peers = new SessionPeers(() => undefined);
  const now = world();
  held(peers, now);
  now.control.online = false;
  now.sessions.clear();
  expect(held(peers, now)).toEqual(["a waits"]);
  now.known.delete("a");
  expect(held(peers, now)).toEqual([]);
});
