import { afterAll, beforeAll, expect, test } from "bun:test";
import { codeOf, enrolMachine, startServer, type TestServer, tokenOf } from "./server-support.ts";

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

test("a body of another content type is refused as such, on every route that takes one: it was a failure of the server's", async () => {
  const node = await enrolMachine(server, "node", "form");
  const token = await tokenOf(server, node);
  const paths = ["/proof", "/nodes/register", "/clients/register", "/auth/challenge", "/auth/token"];
  for (const path of [...paths, `/nodes/${node.id}/heartbeat`, "/routing/request", "/metrics"]) {
    for (const type of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "x"]) {
      const answer = await server.call("POST", path, { token, body: "{}", headers: { "content-type": type } });
      expect([path, type, answer.status, answer.body.code]).toEqual([path, type, 415, "unsupported-media-type"]);
      expect(answer.headers.get("content-type")).toBe("application/problem+json");
    }
  }
});

test("the API's document names every status that a route may answer: five were missing", async () => {
  const { body } = await server.call("GET", "/openapi.json");
  const paths = body.paths as Record<string, Record<string, { responses: Record<string, unknown> }>>;
  for (const operation of Object.values(paths).flatMap((item) => Object.values(item))) {
    for (const status of ["408", "413", "415", "426", "503"]) expect(operation.responses).toHaveProperty(status);
  }
});
