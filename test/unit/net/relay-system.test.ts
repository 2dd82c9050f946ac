// Taking the server's kernel relay away: each part of it, whatever becomes of the others.
import { expect, test } from "bun:test";
import { type Exec, toolMissing } from "../../../src/net/exec.ts";
import { resetKernelRelay } from "../../../src/net/relay-system.ts";
import { failureOf } from "../support/failure.ts";
import { memorySysctl } from "./memory-sysctl.ts";

const { signal } = new AbortController();

/** `answers`: what a command says instead of being done; null for a tool that is missing. */
function machine(answers: Readonly<Record<string, string | null>>) {
  const done: string[] = [];
  const exec: Exec = {
    async run(argv) {
      const command = argv.join(" ");
      const [, stderr = ""] = Object.entries(answers).find(([start]) => command.startsWith(start)) ?? [];
      if (stderr === null) throw toolMissing(argv[0]);
      if (stderr === "") done.push(command);
      return { code: stderr === "" ? 0 : 1, stdout: "", stderr };
    },
  };
  return { done, reset: () => resetKernelRelay({ exec, sysctl: memorySysctl({}) }, signal) };
}

test("bug: without ip the relay's tables stayed", async () => {
  const { done, reset } = machine({ "ip ": null });
  expect(await reset()).toEqual(["Removed the nft tables of the relay."]);
  expect(done).toEqual(["nft delete table ip higgs_relay", "nft delete table ip6 higgs_relay"]);
});

test("bug: a table of one family that could not be taken away kept the other's", async () => {
  const { done, reset } = machine({ "nft delete table ip higgs_relay": "Operation not permitted" });
  expect(await failureOf(reset())).toMatchObject({ code: "tool-failed" });
  expect(done).toContain("nft delete table ip6 higgs_relay");
});

test("is harmless where there is nothing, and without nft", async () => {
  expect(await machine({ "nft ": "No such file or directory" }).reset()).toEqual([]);
  expect(await machine({ "nft ": null }).reset()).toEqual([]);
});
