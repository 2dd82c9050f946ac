import { expect, test } from "bun:test";
import { type ConnectEvent, type ConnectState, step } from "../../../src/client/connect-state.ts";

const up: ConnectEvent = { kind: "up", atMs: 1 };
const tunnelled: ConnectEvent = { kind: "tunnelled", atMs: 2, exitId: "home" };
const down: ConnectEvent = { kind: "down" };
const changed: ConnectEvent = { kind: "exit-changed", atMs: 5 };
const undone: ConnectEvent = { kind: "undone" };

const disconnected: ConnectState = { kind: "disconnected" };
const connecting: ConnectState = { kind: "connecting", sinceMs: 1 };
const connected: ConnectState = { kind: "connected", sinceMs: 2, exitId: "home" };
const disconnecting: ConnectState = { kind: "disconnecting" };

test("step() goes round: up, tunnelled, down, undone", () => {
  const seen = [up, tunnelled, down, undone].reduce<ConnectState[]>(
    (states, event) => [...states, step(states.at(-1) ?? disconnected, event)],
    [disconnected],
  );
  expect(seen).toEqual([disconnected, connecting, connected, disconnecting, disconnected]);
});

test("step() leaves every state as it is for an event that means nothing in it", () => {
  for (const [state, event] of [
    [disconnected, tunnelled],
    [disconnected, down],
    [disconnected, undone],
    [connecting, up],
    [connecting, undone],
    [connecting, changed],
    [connected, up],
    [connected, undone],
    [connected, tunnelled],
    [disconnecting, up],
    [disconnecting, tunnelled],
    [disconnecting, changed],
  ] as const) {
    expect(step(state, event)).toBe(state);
  }
});

test("step() counts the time from the new exit when the exit changed, also to none", () => {
  expect(step(connected, { kind: "tunnelled", atMs: 9, exitId: "cabin" })).toEqual({
    kind: "connected",
    sinceMs: 9,
    exitId: "cabin",
  });
  expect(step(connected, { kind: "tunnelled", atMs: 9, exitId: null })).toEqual({
    kind: "connected",
    sinceMs: 9,
    exitId: null,
  });
});

test("step() gives up from connecting too", () => {
  expect(step(connecting, down)).toEqual(disconnecting);
  expect(step(disconnecting, down)).toEqual(disconnecting);
});

test("step() waits anew when the choice leaves the exit of the connection", () => {
  expect(step(connected, changed)).toEqual({ kind: "connecting", sinceMs: 5 });
});
