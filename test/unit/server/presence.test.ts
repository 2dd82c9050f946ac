import { expect, test } from "bun:test";
import { Presence } from "../../../src/server/presence.ts";
import { machineId } from "./values.ts";

const NODE = machineId(1);

test("Presence.left() forgets that the exit was ready: a node that came back was offered before it had looked", () => {
  const presence = new Presence();
  presence.arrived(NODE, null);
  presence.setExit(NODE, { ready: true, ipv6: true, missing: [] });
  expect(presence.left(NODE)).toBe(true);
  expect(presence.of(NODE).exit).toEqual({ ready: false, ipv6: true, missing: [] });
  presence.arrived(NODE, null);
  expect(presence.of(NODE)).toMatchObject({ online: true, exit: { ready: false } });
  expect(presence.setExit(NODE, { ready: true, ipv6: true, missing: [] })).toBe(true);
});

test("Presence.left() says nothing of an exit that was never offered, and keeps none of its complaints", () => {
  const presence = new Presence();
  presence.arrived(NODE, null);
  presence.left(NODE);
  expect(presence.of(NODE).exit).toBeNull();
  presence.arrived(NODE, null);
  presence.setExit(NODE, { ready: false, ipv6: false, missing: ["There is no way out."] });
  presence.left(NODE);
  expect(presence.of(NODE).exit).toEqual({ ready: false, ipv6: false, missing: [] });
});
