// Proves that a lab comes up whole and goes without a trace, whatever ends it.
import { describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { startLab } from "../../src/lab/lab.ts";
import { homeHost, smallInternet } from "../../src/lab/small-internet.ts";
import { ROOT_DIR } from "./bundle.ts";
import { failureOf, requireLab, until } from "./harness.ts";

const START_MS = 60_000;

describe("startLab()", () => {
  const mounts = (): string => readFileSync("/proc/self/mounts", "utf8");

  /** A lab in a process of its own, with a program in it that has lost its parent. */
  async function labInChild() {
    await requireLab();
    const script = `
      import { startLab } from ${JSON.stringify(join(ROOT_DIR, "src/lab/lab.ts"))};
      import { smallInternet } from ${JSON.stringify(join(ROOT_DIR, "src/lab/small-internet.ts"))};
      const lab = await startLab(smallInternet());
      await lab.host("laptop").exec(["setsid", "-f", "sleep", "604"]);
      console.log(JSON.stringify({ dir: lab.dir, pids: lab.hosts.map((host) => host.pid) }));
      setInterval(() => undefined, 1000);`;
    const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe", stderr: "inherit" });
    const first = await child.stdout.getReader().read();
    const left = JSON.parse(new TextDecoder().decode(first.value)) as { dir: string; pids: number[] };
    expect(existsSync(left.dir) && left.pids.every((pid) => existsSync(`/proc/${pid}`))).toBe(true);
    return { child, left };
  }

  function expectNothingLeft(of: { readonly dir: string; readonly pids: readonly number[] }): void {
    expect(existsSync(of.dir)).toBe(false);
    expect(of.pids.filter((pid) => existsSync(`/proc/${pid}`))).toEqual([]);
  }

  test(
    "takes everything away when disposed, and twice is harmless",
    async () => {
      const before = mounts();
      const own = await startLab(
        smallInternet({ homeIpv6: false, extraHosts: [homeHost("second-pc", 11, { ipv6: false })] }),
      );
      const left = { dir: own.dir, pids: own.hosts.map((host) => host.pid) };
      expect(existsSync(left.dir)).toBe(true);
      expect((await own.host("second-pc").execOrThrow(["ip", "-6", "route"])).includes("default")).toBe(false);
      await own[Symbol.asyncDispose]();
      await own[Symbol.asyncDispose]();
      expectNothingLeft(left);
      expect(mounts()).toBe(before);
    },
    START_MS,
  );

  test(
    "takes everything away when it is aborted half-way",
    async () => {
      const controller = new AbortController();
      const dirs: string[] = [];
      const pids: number[] = [];
      const starting = startLab(smallInternet(), {
        signal: controller.signal,
        onEvent(event) {
          if (event.kind !== "host-up") return;
          pids.push(event.pid);
          dirs.push(`/proc/${event.pid}/root`);
          controller.abort(new Error("interrupted"));
        },
      });
      expect(await failureOf(starting)).toEqual(new Error("interrupted"));
      expect(pids.length).toBeGreaterThan(0);
      expect(pids.filter((pid) => existsSync(`/proc/${pid}`))).toEqual([]);
      expect(dirs.filter((dir) => existsSync(dir))).toEqual([]);
    },
    START_MS,
  );

  for (const signal of ["SIGINT", "SIGTERM", "SIGKILL"] as const) {
    test(
      `leaves nothing behind when its process dies of ${signal}`,
      async () => {
        const { child, left } = await labInChild();
        child.kill(signal);
        await child.exited;
        await until(() => !existsSync(left.dir), { what: "the removal of the lab's folder" });
        await until(() => left.pids.every((pid) => !existsSync(`/proc/${pid}`)), { what: "the end of the hosts" });
        expectNothingLeft(left);
      },
      START_MS,
    );
  }

  test(
    "sweeps what a lab left whose caretaker was killed as well",
    async () => {
      const { child, left } = await labInChild();
      const caretaker = readdirSync("/proc").find((pid) => {
        const path = `/proc/${pid}/cmdline`;
        return (
          /^\d+$/.test(pid) && existsSync(path) && readFileSync(path, "utf8").includes(`lab-caretaker\0${left.dir}\0`)
        );
      });
      process.kill(Number(caretaker), "SIGKILL");
      child.kill("SIGKILL");
      await child.exited;
      expect(existsSync(left.dir)).toBe(true);
      await using own = await startLab({ segments: [], hosts: [] });
      expect(existsSync(own.dir)).toBe(true);
      expect(existsSync(left.dir)).toBe(false);
    },
    START_MS,
  );

  test("refuses a topology that cannot be built, before anything is built", async () => {
    const { hosts } = smallInternet();
    expect(String(await failureOf(startLab({ segments: [], hosts })))).toMatch(/is on no segment/);
    const twice = smallInternet({ extraHosts: [homeHost("home-pc", 30)] });
    expect(String(await failureOf(startLab(twice)))).toMatch(/two hosts/);
  });
});
