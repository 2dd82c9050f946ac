// A server puts its machine back: when it stops, by `state clean` after it was killed, and when the next one stops.
import { expect, test } from "bun:test";
import { snapshot } from "./harness.ts";
import { higgsOrThrow, killNow, pidOf, startClientLab, startServer } from "./client-lab.ts";

/** Its state folder, sockets and processes are its own. */
const WITHOUT = { without: ["etc and run", "processes"] };

test("a server leaves forwarding and rules as they were, also one that was killed", async () => {
  await using lab = await startClientLab();
  const vps = lab.host("vps");
  const before = await snapshot(vps, WITHOUT);
  await startServer(lab);
  // The positive control: it relays in the kernel, and that shows.
  expect(await snapshot(vps, WITHOUT)).not.toBe(before);
  await killNow(vps, await pidOf(vps, "server"));
  const said = await higgsOrThrow(vps, "state", "clean", "--role", "server");
  expect(said).toContain("net.ipv4.ip_forward back to 0");
  expect(await snapshot(vps, WITHOUT)).toBe(before);

  await startServer(lab);
  await killNow(vps, await pidOf(vps, "server"));
  const next = await startServer(lab);
  expect(await snapshot(vps, WITHOUT)).not.toBe(before);
  next.kill();
  await next.exited;
  expect(await snapshot(vps, WITHOUT)).toBe(before);
}, 60_000);

test("state clean without a role puts a dead server's changes back, and leaves a living one alone", async () => {
  await using lab = await startClientLab();
  const vps = lab.host("vps");
  const before = await snapshot(vps, WITHOUT);
  await startServer(lab);
  const running = await snapshot(vps, WITHOUT);
  const beside = await higgsOrThrow(vps, "state", "clean");
  expect(beside).toContain("server: is running: left alone.");
  expect(beside).toContain("client: nothing to put back.");
  expect(await snapshot(vps, WITHOUT)).toBe(running);

  await killNow(vps, await pidOf(vps, "server"));
  const after = await higgsOrThrow(vps, "state", "clean");
  expect(after).toContain("server: Put the kernel setting net.ipv4.ip_forward back to 0.");
  expect(after).toContain("node: nothing to put back.");
  expect(await snapshot(vps, WITHOUT)).toBe(before);
}, 60_000);
