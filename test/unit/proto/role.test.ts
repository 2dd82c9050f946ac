import { expect, test } from "bun:test";
import { roleCode, roleFromCode } from "../../../src/proto/role.ts";

test("roleFromCode() gives back what roleCode() wrote", () => {
  expect([roleCode("node"), roleCode("client")]).toEqual([1, 2]);
  expect([roleFromCode(1), roleFromCode(2)]).toEqual(["node", "client"]);
});

test("roleFromCode() returns null for every other byte", () => {
  for (let code = 0; code < 256; code++) if (code !== 1 && code !== 2) expect(roleFromCode(code)).toBeNull();
});
