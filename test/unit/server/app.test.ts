import { expect, test } from "bun:test";
import { createLogger } from "../../../src/base/log.ts";
import { createApi } from "../../../src/server/api/app.ts";
import type { ApiDeps } from "../../../src/server/api/context.ts";
import { RequestCounts } from "../../../src/server/api/request-counts.ts";
import { createLimiters } from "../../../src/server/limiters.ts";
import { machineId } from "./values.ts";

test("createApi() logs a failure that a stranger caused without a stack: anybody could fill the log", async () => {
  const lines: string[] = [];
  const broken = {
    limiters: createLimiters(),
    requests: new RequestCounts(),
    log: createLogger({ level: "trace", write: (line) => lines.push(line) }),
    fleet: {
      directory: {
        get: () => {
          throw new TypeError("broken on purpose");
        },
      },
    },
    // Only what a challenge needs of the server, with a failure where the machine is looked up.
  } as unknown as ApiDeps;
  const request = new Request("https://server/api/v1/auth/challenge", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ machine: machineId(1) }),
  });
  const answer = await createApi(broken).fetch(request, { address: null });
  expect([answer.status, ((await answer.json()) as { code: string }).code]).toEqual([500, "internal"]);
  expect(lines.length).toBe(1);
  expect(lines[0]).toContain("broken on purpose");
  expect(lines[0]).not.toMatch(/stack|app\.test\.ts/);
});
