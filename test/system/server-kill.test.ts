import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { parseInvite } from "../../src/proto/invite.ts";
import type { SpkiHash } from "../../src/proto/keys.ts";
import {
  type Newcomer,
  newcomer,
  register,
  registerBody,
  startServer,
  temporaryDir,
  type TestServer,
} from "./server-support.ts";

let stateDir: string;
beforeEach(async () => {
  stateDir = await temporaryDir();
});
afterEach(async () => {
  await rm(stateDir, { recursive: true, force: true });
});

describe("a server that is killed", () => {
  interface Ready {
    readonly port: number;
    readonly certPem: string;
    readonly spki: SpkiHash;
    readonly invites: readonly string[];
  }

  async function startChild(): Promise<{ child: Bun.Subprocess<"ignore", "pipe", "pipe">; ready: Ready }> {
    const child = Bun.spawn([process.execPath, join(import.meta.dir, "server-process.program.ts")], {
      env: { ...process.env, STATE_DIR: stateDir, INVITES: "40" },
      stdout: "pipe",
      stderr: "pipe",
    });
    const reader = child.stdout.getReader();
    let text = "";
    while (!text.includes("\n")) {
      const { value, done } = await reader.read();
      if (done) throw new Error(`no server: ${await child.stderr.text()}`);
      text += new TextDecoder().decode(value);
    }
    return { child, ready: JSON.parse(text) as Ready };
  }

  test("loses no enrolment that it acknowledged, and no used invite can be used again", async () => {
    const rounds = 8;
    const acknowledged: { invite: string; who: Newcomer; id: string }[] = [];
    let killedMidway = 0;
    for (let round = 0; round < rounds; round++) {
      const { child, ready } = await startChild();
      const at = { spki: ready.spki } as TestServer;
      let answered = 0;
      const attempts = ready.invites.map(async (invite) => {
        const who = newcomer();
        try {
          const response = await fetch(`https://127.0.0.1:${ready.port}/api/v1/nodes/register`, {
            method: "POST",
            headers: { "content-type": "application/json" },
            body: JSON.stringify(registerBody(at, parseInvite(invite), who)),
            tls: { ca: ready.certPem, checkServerIdentity: () => undefined },
          });
          const body = (await response.json()) as { id: string };
          if (response.status === 200) acknowledged.push({ invite, who, id: body.id });
        } catch {
          return; // the server was killed before it answered
        }
        // Somewhere among the forty, another place each round.
        if (++answered === 1 + round * 4) child.kill("SIGKILL");
      });
      await Promise.all(attempts);
      await child.exited;
      if (answered < ready.invites.length) killedMidway++;
    }
    expect(killedMidway).toBe(rounds);
    expect(acknowledged.length).toBeGreaterThanOrEqual(rounds);
    await using server = await startServer({ stateDir });
    const known = new Set(server.server.machines().map((machine) => machine.id as string));
    expect(acknowledged.filter(({ id }) => !known.has(id))).toEqual([]);
    let retried = 0;
    for (const { invite, who, id } of acknowledged) {
      expect((await register(server, parseInvite(invite), who)).body.id).toBe(id);
      expect((await register(server, parseInvite(invite), newcomer())).body.code).toBe("invite-used");
      retried++;
    }
    expect(retried).toBe(acknowledged.length);
    const addresses = server.server.machines().map((machine) => machine.ipv4);
    expect(new Set(addresses).size).toBe(addresses.length);
  }, 60_000);
});
