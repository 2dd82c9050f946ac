// The roles as services of a real systemd: under their own user with the least privileges, through crashes, restarts and a power cut.
// long because all of it happens to the same four machines, one after the other: a boot of each takes longer than a test.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { cafeHost, smallInternet, WEB_NAME } from "../../src/lab/small-internet.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { debianRoot } from "./debian-root.ts";
import { snapshot, until } from "./harness.ts";
import { DNS_FLAGS, FLOOD, HIGGS, startFlood, startNetworkLab } from "./network.ts";
import { bootSystemd, type SystemdMachine } from "./systemd-machine.ts";

const MINUTE = 60_000;
/** The packages of a Debian are fetched and unpacked once. */
const START_MS = 5 * MINUTE;
const HOME: readonly string[] = ["203.0.113.7", "2001:db8:7:1::10"];
/** What has no name for a process that only changes networks: capability.h, bit 12, and 10 for ports below 1024. */
const NET_ADMIN = "0000000000001000";
const NET_ADMIN_AND_BIND = "0000000000001400";
type Role = "server" | "node" | "client";

describe("the roles as services", () => {
  let lab: Lab;
  let vps: SystemdMachine;
  let home: SystemdMachine;
  /** With a plain /etc/resolv.conf. */
  let laptop: SystemdMachine;
  /** With systemd-resolved. */
  let tablet: SystemdMachine;
  const invites = { node: "", client: "" };
  const before = new Map<SystemdMachine, string>();

  beforeAll(async () => {
    lab = await startNetworkLab(smallInternet({ extraHosts: [cafeHost("tablet", 3)] }), {
      visible: [await debianRoot()],
    });
    [vps, home, laptop, tablet] = await Promise.all([
      bootSystemd(lab.host("vps")),
      bootSystemd(lab.host("home-pc")),
      bootSystemd(lab.host("laptop")),
      bootSystemd(lab.host("tablet"), { resolved: true }),
    ]);
    await tablet.execOrThrow(["resolvectl", "dns", "eth0", "192.168.7.1"]);
    for (const machine of [vps, home, laptop, tablet]) before.set(machine, await look(machine));
  }, START_MS);
  afterAll(async () => {
    await Promise.all([vps, home, laptop, tablet].map((machine) => machine?.[Symbol.asyncDispose]()));
    await lab?.[Symbol.asyncDispose]();
  }, MINUTE);

  /** All that a role could leave but its keys; systemd's own files come and go. */
  const look = async (machine: SystemdMachine): Promise<string> =>
    `${(await snapshot(machine, { without: ["processes", "etc and run"] })).replaceAll(/@if\d+/g, "")}
     ${await machine.execOrThrow(["sh", "-c", "find /etc -not -type d -not -name '*-' | sort; cat /etc/passwd /etc/group"])}
     ${(await machine.exec(["sh", "-c", "resolvectl dns; resolvectl domain"])).stdout}`;
  const higgs = (machine: SystemdMachine, ...args: readonly string[]): Promise<string> =>
    machine.execOrThrow([HIGGS, ...args], { timeoutMs: MINUTE });
  const show = async (machine: SystemdMachine, role: Role, property: string): Promise<string> =>
    (await machine.execOrThrow(["systemctl", "show", "-P", property, `higgs-${role}`])).trim();
  const journal = (machine: SystemdMachine, role: Role): Promise<string> =>
    machine.execOrThrow(["journalctl", "--no-pager", "-o", "cat", "-u", `higgs-${role}`]);
  /** It comes into the journal by another process. */
  const untilInJournal = (machine: SystemdMachine, role: Role, words: string): Promise<unknown> =>
    until(async () => (await journal(machine, role)).includes(words), { what: `"${words}" in the journal` });
  const wireGuard = async (machine: SystemdMachine): Promise<string> =>
    (await machine.exec(["pgrep", "-f", "wireguard-go.* higgs"])).stdout.trim();
  const kill = (machine: SystemdMachine, role: Role, signal: string): Promise<string> =>
    machine.execOrThrow(["systemctl", "kill", "--kill-who=main", "-s", signal, `higgs-${role}`]);

  async function browses(machine: SystemdMachine): Promise<void> {
    const page = async (): Promise<string> =>
      (await machine.exec([HIGGS, "lab-service", "fetch", `http://${WEB_NAME}/`], { timeoutMs: 20_000 })).stdout.trim();
    await until(async () => HOME.includes(await page()), { timeoutMs: 30_000, what: "the page through the home PC" });
  }

  async function expectLeast(machine: SystemdMachine, role: Role, capabilities: string): Promise<void> {
    const pid = await show(machine, role, "MainPID");
    const status = await machine.readFile(`/proc/${pid}/status`);
    const uid = (await machine.execOrThrow(["id", "-u", "higgs"])).trim();
    expect(/^Uid:\s+(\d+)/m.exec(status)?.[1]).toBe(uid);
    for (const set of ["CapPrm", "CapEff", "CapBnd", "CapAmb"]) expect(status).toContain(`${set}:\t${capabilities}`);
    expect(status).toContain("NoNewPrivs:\t1");
    expect(status).toContain("Seccomp:\t2");
  }

  test(
    "server install runs it with two capabilities, shows the invites, and puts none into the journal",
    async () => {
      const said = await higgs(vps, "server", "install");
      invites.node = /node --join '([^']+)'/.exec(said)?.[1] ?? "";
      invites.client = /client up --join '([^']+)'/.exec(said)?.[1] ?? "";
      expect(invites.node).toStartWith("higgs://");
      await expectLeast(vps, "server", NET_ADMIN_AND_BIND);
      await untilInJournal(vps, "server", "relaying in the kernel");
      expect(await journal(vps, "server")).not.toContain("higgs://");
    },
    MINUTE,
  );

  test(
    "node install refuses without an invite, and then runs it with CAP_NET_ADMIN alone",
    async () => {
      const refused = await home.exec([HIGGS, "node", "install"]);
      expect(refused.stderr).toContain("higgs node join");
      expect(refused.code).toBe(4);
      expect((await home.exec(["ls", "/etc/systemd/system/higgs-node.service"])).code).not.toBe(0);
      await higgs(home, "node", "install", "--join", invites.node, ...DNS_FLAGS);
      await expectLeast(home, "node", NET_ADMIN);
      await untilInJournal(home, "node", "exit offered");
    },
    MINUTE,
  );

  test(
    "client install connects a laptop with CAP_NET_ADMIN alone, and a helper writes its plain resolv.conf",
    async () => {
      await higgs(laptop, "client", "install", "--join", invites.client);
      await higgs(laptop, "client", "wait", "--timeout", "40s");
      await browses(laptop);
      await expectLeast(laptop, "client", NET_ADMIN);
      expect(await laptop.readFile("/etc/resolv.conf")).toContain("Written by higgs");
      // Positive control: the service itself may not write there.
      const pid = await show(laptop, "client", "MainPID");
      const write = await laptop.exec([
        "nsenter",
        "-t",
        pid,
        "-m",
        "-S",
        "follow",
        "--",
        "touch",
        "/etc/higgs-was-here",
      ]);
      expect(write.code).not.toBe(0);
    },
    MINUTE,
  );

  test(
    "client install connects a laptop with systemd-resolved, by polkit's leave for this user alone",
    async () => {
      const set = ["setpriv", "--reuid", "nobody", "--clear-groups", "resolvectl", "dns", "eth0", "198.51.100.1"];
      expect((await tablet.exec(set)).stderr).toContain("authentication required");
      const invite = JSON.parse(await higgs(vps, "server", "invite", "client", "--json")) as { invite: string };
      await higgs(tablet, "client", "install", "--join", invite.invite);
      await higgs(tablet, "client", "wait", "--timeout", "40s");
      await browses(tablet);
      expect(await tablet.execOrThrow(["resolvectl", "domain", "higgs0"])).toContain("~.");
      expect(await tablet.readFile("/etc/resolv.conf")).toContain("127.0.0.53");
      expect((await tablet.exec(set)).stderr).toContain("authentication required");
    },
    MINUTE,
  );

  test("systemd's own judgement of every unit is 2.0 or better", async () => {
    const units: readonly (readonly [SystemdMachine, string])[] = [
      [vps, "higgs-server.service"],
      [home, "higgs-node.service"],
      [laptop, "higgs-client.service"],
      [laptop, "higgs-resolv-conf@.service"],
      [laptop, "higgs-resolv-conf-boot.service"],
      [laptop, "higgs-lock.service"],
    ];
    for (const [machine, unit] of units) {
      const path = `/etc/systemd/system/${unit}`;
      const said = await machine.execOrThrow(["systemd-analyze", "security", "--offline=true", "--no-pager", path]);
      const exposure = Number(/Overall exposure level for \S+: ([\d.]+)/.exec(said)?.[1]);
      console.log(`${unit}: exposure ${exposure}`);
      expect(exposure).toBeLessThanOrEqual(2);
      expect((await machine.exec(["systemd-analyze", "verify", path])).stderr).not.toContain("higgs");
    }
  });

  test(
    "after kill -9, and after a restart, the same tunnel goes on and the next start adopts it",
    async () => {
      for (const [machine, role] of [
        [laptop, "client"],
        [home, "node"],
      ] as const) {
        const tunnel = await wireGuard(machine);
        expect(tunnel).toMatch(/^\d+$/);
        for (const crash of [
          () => kill(machine, role, "KILL"),
          () => machine.execOrThrow(["systemctl", "restart", `higgs-${role}`]),
        ]) {
          const pid = await show(machine, role, "MainPID");
          await crash();
          await until(async () => !["0", pid].includes(await show(machine, role, "MainPID")));
          await until(async () => (await show(machine, role, "ActiveState")) === "active");
          expect(await wireGuard(machine)).toBe(tunnel);
        }
        await untilInJournal(machine, role, "adopted=true");
        await browses(laptop);
      }
    },
    2 * MINUTE,
  );

  test(
    "one that hangs is ended by systemd's watchdog and started again",
    async () => {
      const dir = "/run/systemd/system/higgs-client.service.d";
      await laptop.execOrThrow(["mkdir", "-p", dir]);
      await laptop.writeFile(`${dir}/watchdog.conf`, "[Service]\nWatchdogSec=3\n");
      await laptop.execOrThrow(["systemctl", "daemon-reload"]);
      await laptop.execOrThrow(["systemctl", "restart", "higgs-client"]);
      const pid = await show(laptop, "client", "MainPID");
      await Bun.sleep(7_000); // positive control: one that lives is left alone
      expect(await show(laptop, "client", "MainPID")).toBe(pid);
      await kill(laptop, "client", "STOP");
      await until(async () => !["0", pid].includes(await show(laptop, "client", "MainPID")), { timeoutMs: 30_000 });
      await untilInJournal(laptop, "client", "Watchdog timeout");
      await browses(laptop);
    },
    MINUTE,
  );

  test(
    "the helper takes nothing but addresses, and from nobody but the service",
    async () => {
      const ask = (user: string, text: string) =>
        laptop.exec(
          ["setpriv", "--reuid", user, "--clear-groups"].concat([
            ...["curl", "-sS", "-m", "5", "--unix-socket", "/run/higgs/resolv-conf.sock", "telnet://higgs"],
          ]),
          { stdin: text },
        );
      const file = await laptop.readFile("/etc/resolv.conf");
      expect((await ask("nobody", '{"reset":true}\n')).code).not.toBe(0);
      for (const text of [
        "{}\n",
        "nonsense\n",
        '{"servers":["10.0.0.1\\nnameserver 6.6.6.6"],"searchDomains":[]}\n',
        '{"servers":["10.0.0.1"],"searchDomains":["a b"]}\n',
        '{"servers":["10.0.0.1"],"searchDomains":[],"path":"/etc/passwd"}\n',
      ]) {
        expect((await ask("higgs", text)).stdout).toContain('{"error":');
      }
      expect(await laptop.readFile("/etc/resolv.conf")).toBe(file);
    },
    MINUTE,
  );

  test(
    "after a power cut everything comes up by itself, and the laptop connects",
    async () => {
      await laptop.cut();
      await lab.host("laptop").powerOff();
      await lab.host("laptop").boot();
      await laptop.boot();
      await until(async () => (await show(laptop, "client", "ActiveState")) === "active");
      await browses(laptop);
    },
    MINUTE,
  );

  test(
    "with the kill switch on, a boot closes the laptop before the network, and the client connects through",
    async () => {
      const isClosed = async (): Promise<boolean> => {
        const { code, stdout } = await laptop.exec([HIGGS, "lab-service", "fetch", "http://203.0.113.80/"]);
        return code !== 0 && stdout === "";
      };
      await higgs(laptop, "client", "lockdown", "on");
      await laptop.execOrThrow(["systemctl", "stop", "higgs-client"]);
      expect(await isClosed()).toBe(true);
      expect((await laptop.exec([HIGGS, "client", "uninstall"])).stderr).toContain("lockdown off");
      await laptop.execOrThrow(["systemctl", "disable", "higgs-client"]); // nothing but the lock is to start at the boot
      await laptop.cut();
      await lab.host("laptop").powerOff();
      await lab.host("laptop").boot();
      expect((await lab.host("laptop").exec(["nft", "list", "tables"])).stdout).toBe(""); // positive control: a boot opens
      await laptop.boot();
      const said = (): Promise<string> => laptop.execOrThrow(["journalctl", "-o", "cat", "-u", "higgs-lock"]);
      await until(async () => (await said()).includes("kill switch is loaded"), { what: "the lock's words" });
      const at = async (unit: string): Promise<number> =>
        Number(await laptop.execOrThrow(["systemctl", "show", "-P", "ActiveEnterTimestampMonotonic", unit]));
      expect(await at("higgs-lock.service")).toBeGreaterThan(0);
      expect(await at("higgs-lock.service")).toBeLessThan(await at("network-pre.target"));
      expect(await isClosed()).toBe(true);
      await laptop.execOrThrow(["systemctl", "enable", "--now", "higgs-client"]);
      await browses(laptop);
      await higgs(laptop, "client", "lockdown", "off");
      await browses(laptop);
    },
    MINUTE,
  );

  test(
    "a restart and an upgrade under the kill switch let not one packet of a flood out",
    async () => {
      await higgs(laptop, "client", "lockdown", "on");
      await browses(laptop);
      await using sniffer = await lab.host("cafe-router").sniff("lan", FLOOD);
      await using _flood = await startFlood(laptop);
      for (const step of [
        ["systemctl", "restart", "higgs-client"],
        [HIGGS, "client", "install"],
      ]) {
        const pid = await show(laptop, "client", "MainPID");
        await laptop.execOrThrow(step, { timeoutMs: MINUTE });
        expect(await show(laptop, "client", "MainPID")).not.toBe(pid);
        await browses(laptop);
      }
      expect(sniffer.packets()).toEqual([]);
      await higgs(laptop, "client", "lockdown", "off");
      await laptop.execOrThrow(["systemctl", "stop", "higgs-client"]);
      await until(() => sniffer.packets().length > 0, { what: "the flood, which the sniffer sees" });
      await laptop.execOrThrow(["systemctl", "start", "higgs-client"]);
      await browses(laptop);
    },
    MINUTE,
  );

  test(
    "where nft is missing, node and client close by iptables over nf_tables with the same rights, and install says that they can",
    async () => {
      const roles = [
        [home, "node", "higgs-node-"],
        [laptop, "client", "higgs-client-"],
      ] as const;
      const restart = async (): Promise<void> => {
        for (const [machine, role] of roles) {
          await machine.execOrThrow(["systemctl", "restart", `higgs-${role}`], { timeoutMs: MINUTE });
        }
        await browses(laptop);
      };
      const listed = async (): Promise<readonly boolean[]> =>
        await Promise.all(
          roles.map(async ([machine, role, prefix]) =>
            (await higgs(machine, "state", "list", "--role", role)).includes(`iptables chains ${prefix}`),
          ),
        );
      for (const [machine] of roles) await machine.execOrThrow(["mount", "--bind", "/dev/null", "/usr/sbin/nft"]);
      try {
        await restart();
        expect(await listed()).toEqual([true, true]);
        for (const [machine, role] of roles) {
          await expectLeast(machine, role, NET_ADMIN);
          await higgs(machine, role, "install", ...(role === "node" ? DNS_FLAGS : []));
        }
        await browses(laptop);
      } finally {
        for (const [machine] of roles) await machine.execOrThrow(["umount", "/usr/sbin/nft"]);
      }
      await restart();
      expect(await listed()).toEqual([false, false]);
      // Its empty tables stay: nothing of iptables takes them away.
      const empty = ["ip", "ip6"].flatMap((family) =>
        ["filter", "mangle", "nat"].map((table) => `nft delete table ${family} ${table}`),
      );
      for (const [machine] of roles) await machine.exec(["sh", "-c", empty.join("; ")]);
    },
    2 * MINUTE,
  );

  test(
    "panic stops a service with the kill switch on, and opens the machine",
    async () => {
      await higgs(tablet, "client", "lockdown", "on");
      const said = await higgs(tablet, "panic");
      expect(said).toContain("Stopped the service higgs-client.service");
      expect(await tablet.execOrThrow(["nft", "list", "tables"])).toBe("");
      const seen = await tablet.execOrThrow([HIGGS, "lab-service", "fetch", "http://203.0.113.80/"]);
      expect(seen.trim()).toBe("203.0.113.66");
      await tablet.execOrThrow(["systemctl", "start", "higgs-client"]);
      await browses(tablet);
    },
    MINUTE,
  );

  for (const [what, spoil] of [
    ["a damaged journal", `echo '{"version":1,"un' > /var/lib/higgs/client/journal.json`],
    ["no journal", "rm -f /var/lib/higgs/client/journal.json"],
  ] as const) {
    test(
      `panic opens a machine whose service has ${what}, and the second one finds nothing`,
      async () => {
        await higgs(tablet, "client", "lockdown", "on");
        await browses(tablet);
        await tablet.execOrThrow(["sh", "-c", spoil]);
        const said = await higgs(tablet, "panic");
        expect(said).toContain("Switched the kill switch off");
        expect(said).toContain("Nothing of higgs is left on this machine's network.");
        expect(await tablet.execOrThrow(["nft", "list", "tables"])).toBe("");
        expect(await wireGuard(tablet)).toBe("");
        expect(await tablet.execOrThrow(["ip", "-4", "rule"])).not.toContain("5270");
        const seen = await tablet.execOrThrow([HIGGS, "lab-service", "fetch", "http://203.0.113.80/"]);
        expect(seen.trim()).toBe("203.0.113.66");
        expect(await higgs(tablet, "panic")).toContain("Nothing of higgs was found on this machine.");
        // What only the journal knew.
        await tablet.execOrThrow([
          "sysctl",
          "-qw",
          "net.ipv4.conf.all.src_valid_mark=0",
          "net.ipv4.conf.all.arp_ignore=0",
        ]);
        await tablet.execOrThrow(["systemctl", "start", "higgs-client"]);
        await browses(tablet);
      },
      MINUTE,
    );
  }

  test(
    "a stop undoes everything, and uninstall leaves nothing but the role's own folder",
    async () => {
      for (const [machine, role] of [
        [laptop, "client"],
        [tablet, "client"],
        [home, "node"],
        [vps, "server"],
      ] as const) {
        await machine.execOrThrow(["systemctl", "stop", `higgs-${role}`]);
        expect(await show(machine, role, "Result")).toBe("success");
        expect(await wireGuard(machine)).toBe("");
        expect(await higgs(machine, "state", "clean", "--role", role)).toContain("nothing to put back");
        await higgs(machine, role, "uninstall");
        expect(await look(machine)).toBe(before.get(machine) ?? "");
        expect(await machine.execOrThrow(["find", `/var/lib/higgs/${role}`, "-not", "-user", "root"])).toBe("");
      }
    },
    2 * MINUTE,
  );
});
