import { afterAll, beforeAll, expect, test } from "bun:test";
import { codeOf, enrolMachine, startServer, type TestServer } from "./server-support.ts";

let server: TestServer;
beforeAll(async () => {
  server = await startServer();
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
});

test("HiggsServer.tag() gives a machine no more tags than an invite may carry: they had no bound", async () => {
  await enrolMachine(server, "node", "tagged");
  const tags = Array.from({ length: 17 }, (_, i) => `tag-${i}`);
  expect(await codeOf(server.server.tag("tagged", tags))).toBe("tag-invalid");
  expect(await codeOf(server.server.tag("tagged", [...tags.slice(1), "tag-1"]))).toBe("done");
  expect(server.server.machines().find((machine) => machine.name === "tagged")?.tags.length).toBe(16);
});
