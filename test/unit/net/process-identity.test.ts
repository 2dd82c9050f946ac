// Tests of telling a process from another that has its pid later.
import { expect, test } from "bun:test";
import { isAlive, parseStat, thisProcess } from "../../../src/net/process-identity.ts";

const STAT =
  "4711 (a) b (c) S 1 4711 4711 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 169584 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n";

test("parseStat() is not misled by a name with parentheses and spaces", () => {
  expect(parseStat(STAT)).toEqual({ state: "S", startTime: "169584" });
});

test("parseStat() is null for what is no line of a process", () => {
  for (const text of ["", "4711", "4711 (x) S 1", STAT.replace("169584", "x")]) expect(parseStat(text)).toBeNull();
});

test("isAlive() knows this process, and neither an earlier one of the same pid nor one before the last boot", () => {
  const me = thisProcess();
  expect(isAlive(me)).toBeTrue();
  expect(isAlive({ ...me, startTime: "1" })).toBeFalse();
  expect(isAlive({ ...me, bootId: "00000000-0000-0000-0000-000000000000" })).toBeFalse();
});

test("isAlive() is false once a process was killed", async () => {
  const child = Bun.spawn(["sleep", "60"]);
  const stat = parseStat(await Bun.file(`/proc/${child.pid}/stat`).text());
  const identity = { ...thisProcess(), pid: child.pid, startTime: stat?.startTime ?? "" };
  expect(isAlive(identity)).toBeTrue();
  child.kill("SIGKILL");
  await child.exited;
  expect(isAlive(identity)).toBeFalse();
});
