// Names on laptops whose resolv.conf NetworkManager, resolvconf, openresolv or dhclient writes: through the tunnel alone, and as before after it.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { WEB_NAME } from "../../src/lab/small-internet.ts";
import type { Lab } from "../../src/lab/lab.ts";
import {
  addressOf,
  bootManagers,
  CAFE_RESOLVER,
  type MachineName,
  type Machines,
  type Manager,
  MANAGERS,
  namesOf,
  OTHER_RESOLVER,
  settled,
  startDhcp,
  startManagersLab,
} from "./dns-managers.ts";
import { until } from "./harness.ts";
import { HIGGS, invite, startNode, startServer } from "./network.ts";
import { caughtUp } from "./state-scene.ts";
import type { SystemdMachine } from "./systemd-machine.ts";

const MINUTE = 60_000;
/** The packages of a Debian are fetched and unpacked once. */
const START_MS = 5 * MINUTE;
const NETWORK_MANAGER_LINK = "NetworkManager behind a link";
/** Those whose programs are told; the others with HIGGS_DNS_KILLS=all. */
const SHORT: readonly string[] = ["Debian's resolvconf", "openresolv"];
/** As a shell says it of SIGKILL. */
const KILLED = 137;
const WEB4 = "203.0.113.80";

describe("names that somebody manages", () => {
  let lab: Lab;
  let machines: Machines;
  let dhcp: AsyncDisposable;

  beforeAll(async () => {
    lab = await startManagersLab(["dns-steps"]);
    machines = await bootManagers(lab);
    await startServer(lab);
    await startNode(lab.host("home-pc"), { join: await invite(lab, "node") });
    for (const machine of Object.values(machines)) {
      await machine.execOrThrow([HIGGS, "client", "join", await invite(lab, "client")]);
    }
    dhcp = await startDhcp(lab, CAFE_RESOLVER);
  }, START_MS);
  afterAll(async () => {
    await dhcp?.[Symbol.asyncDispose]();
    await Promise.all(Object.values(machines ?? {}).map((machine) => machine[Symbol.asyncDispose]()));
    await lab?.[Symbol.asyncDispose]();
  }, MINUTE);

  const shell = (machine: SystemdMachine, script: string): Promise<string> =>
    machine.execOrThrow(["sh", "-c", script], { timeoutMs: MINUTE });

  async function renew(machine: SystemdMachine, manager: Manager, server: string): Promise<void> {
    if (manager.machine === "dhclient") {
      await dhcp[Symbol.asyncDispose]();
      dhcp = await startDhcp(lab, server);
    }
    await shell(machine, manager.renew(server));
  }

  /** By glibc, as most programs do. */
  const ask = async (machine: SystemdMachine): Promise<boolean> =>
    (await machine.exec(["getent", "ahostsv4", WEB_NAME], { timeoutMs: 20_000 })).stdout.includes(WEB4);

  /** The queries that the café's LAN sees meanwhile. */
  async function seenOnLan(name: MachineName, run: () => Promise<unknown>): Promise<readonly string[]> {
    const router = lab.host("cafe-router");
    await using sniffer = await router.sniff("lan", "port 53 or port 853 or icmp");
    await run();
    await caughtUp(sniffer, router, addressOf(name));
    return sniffer.packets().flatMap(({ text }) => (/[.:](?:53|853)\b/.test(text) ? [text] : []));
  }

  /** Whom programs ask, whatever resolv.conf is made of. */
  async function asksTunnel(machine: SystemdMachine): Promise<boolean> {
    const text = (await machine.exec(["cat", "/etc/resolv.conf"])).stdout; // none behind a link, until its keeper has started
    if (text.includes("127.0.0.53"))
      return (await machine.exec(["resolvectl", "domain", "higgs0"])).stdout.includes("~.");
    const servers = [...text.matchAll(/^nameserver (\S+)/gm)].map((match) => match[1] ?? "");
    return servers.length > 0 && servers.every((server) => /^(?:10\.|fd)/.test(server));
  }

  /** With the café's server in the file, or a cache of this machine's. */
  async function begun(machine: SystemdMachine, manager: Manager): Promise<string> {
    await shell(machine, manager.begin);
    const before = await settled(machine, manager);
    expect(before).toMatch(/^nameserver (?:192\.168\.7\.1|127\.[0-9.]+)$/m);
    return before;
  }

  for (const manager of MANAGERS) {
    test(
      `${manager.name}: through the tunnel alone, also when the lease names another server, and byte for byte as before after it`,
      async () => {
        const machine = machines[manager.machine];
        const before = await begun(machine, manager);
        // Positive control.
        expect((await seenOnLan(manager.machine, () => ask(machine))).length).toBeGreaterThan(0);

        await machine.execOrThrow([HIGGS, "client", "up"]);
        const seen = await seenOnLan(manager.machine, async () => {
          expect(await asksTunnel(machine)).toBe(true);
          expect(await ask(machine)).toBe(true);
          for (const server of [OTHER_RESOLVER, CAFE_RESOLVER]) {
            await renew(machine, manager, server);
            await until(() => asksTunnel(machine), {
              what: `the tunnel's servers after ${manager.name} wrote ${server}`,
            });
            expect(await ask(machine)).toBe(true);
          }
        });
        expect(seen).toEqual([]);
        expect((await machine.exec([HIGGS, "state", "verify", "--role", "client"])).stdout).toContain(
          "everything is as it wants it",
        );
        expect((await machine.exec([HIGGS, "state", "list", "--role", "client"])).stdout).not.toContain(
          "not in the journal",
        );
        await machine.execOrThrow([HIGGS, "client", "down"]);
        expect(await settled(machine, manager)).toBe(before);
        expect((await seenOnLan(manager.machine, () => ask(machine))).length).toBeGreaterThan(0);
      },
      MINUTE,
    );
  }

  const isLong = process.env["HIGGS_DNS_KILLS"] === "all";
  for (const manager of MANAGERS.filter(({ name }) => isLong || SHORT.includes(name))) {
    test(
      `${manager.name}: killed at every step of setting and putting back, without its journal too, state clean finds it all`,
      async () => {
        const machine = machines[manager.machine];
        const before = await begun(machine, manager);
        const steps = async (deed: "set" | "reset", last: number) => {
          await machine.exec(["ip", "tuntap", "add", "dev", "higgs0", "mode", "tun"]); // as the tunnel's: systemd-resolved wants one
          return await machine.exec(["/usr/local/bin/bun", "/usr/local/bin/dns-steps.js", deed, String(last)]);
        };
        const clean = async (): Promise<void> => {
          await machine.execOrThrow([HIGGS, "state", "clean", "--role", "client"]);
        };
        let kills = 0;
        for (const deed of ["set", "reset"] as const) {
          for (let last = 1; ; last++) {
            if (deed === "reset") expect((await steps("set", 0)).code).toBe(0);
            const { code, stderr } = await steps(deed, last);
            expect([deed, last, [0, KILLED].includes(code), stderr]).toEqual([deed, last, true, ""]);
            const isOver = code === 0;
            if (!isOver) kills++;
            if (last % 3 === 0) await shell(machine, "rm -f /var/lib/higgs/client/journal.json");
            await clean();
            const after = await namesOf(machine, manager);
            if (after !== before) expect({ deed, last, after }).toEqual({ deed, last, after: before });
            if (isOver) break;
          }
        }
        await machine.execOrThrow(["ip", "link", "del", "higgs0"]); // no WireGuard, so that state clean leaves it
        console.log(`${manager.name}: ${kills} kills`);
        expect(kills).toBeGreaterThanOrEqual(manager.leastKills);
      },
      3 * MINUTE,
    );
  }

  /** Without root the file is set by the helper, and a power cut leaves nobody but the boot to put it back. */
  async function serve(manager: Manager): Promise<void> {
    const machine = machines[manager.machine];
    const before = await begun(machine, manager);
    const higgs = (...args: readonly string[]): Promise<string> =>
      machine.execOrThrow([HIGGS, ...args], { timeoutMs: MINUTE });
    await higgs("client", "install");
    await higgs("client", "wait", "--timeout", "40s");
    await until(() => asksTunnel(machine), { what: `the tunnel's servers by ${manager.name}` });
    for (const server of [OTHER_RESOLVER, CAFE_RESOLVER]) {
      await shell(machine, manager.renew(server));
      await until(() => asksTunnel(machine), { what: `the tunnel's servers after ${manager.name} wrote ${server}` });
    }
    expect(await ask(machine)).toBe(true);
    expect(await higgs("state", "list", "--role", "client")).not.toContain("not in the journal");

    await shell(machine, "systemctl disable higgs-client; sync");
    await machine.cut();
    await machine.boot();
    expect(await asksTunnel(machine)).toBe(false);
    const unit = await shell(machine, "systemctl show -P Result -P ConditionResult higgs-resolv-conf-boot");
    expect(unit).toBe("success\nyes\n");
    // The client's own journal is about the kernel that is gone, and for its next start to forget.
    expect((await begun(machine, manager)).replace("/var/lib/higgs/client/journal.json\n", "")).toBe(before);

    await shell(machine, "systemctl start higgs-client");
    await higgs("client", "wait", "--timeout", "40s");
    await until(() => asksTunnel(machine), { what: `the tunnel's servers by ${manager.name} after the boot` });
    await higgs("client", "uninstall");
    expect(await settled(machine, manager)).toBe(before);
  }

  test(
    "as a service without root the same holds, after a power cut the boot puts the file back, and uninstall leaves nothing",
    async () => {
      const served = [NETWORK_MANAGER_LINK, "Debian's resolvconf", "openresolv"];
      await Promise.all(MANAGERS.filter(({ name }) => served.includes(name)).map(serve));
    },
    2 * MINUTE,
  );
});
