// Beside the real firewalld, under a real systemd: an exit that it closes says so and what to type, and a client loses nothing by its reloads.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Lab } from "../../src/lab/lab.ts";
import { smallInternet } from "../../src/lab/small-internet.ts";
import { higgs, higgsOrThrow, startNetwork, untilBrowses } from "./client-lab.ts";
import { debianRoot, FIREWALLD } from "./debian-root.ts";
import { until } from "./harness.ts";
import { FLOOD, startFlood, startNetworkLab } from "./network.ts";
import { bootSystemd, type SystemdMachine } from "./systemd-machine.ts";

const MINUTE = 60_000;
/** The packages of a Debian are fetched and unpacked once. */
const START_MS = 5 * MINUTE;
let lab: Lab;

beforeAll(async () => {
  lab = await startNetworkLab(smallInternet(), { visible: [await debianRoot(FIREWALLD)] });
  await startNetwork(lab);
  await higgsOrThrow(lab.host("laptop"), "client", "up");
  await untilBrowses(lab.host("laptop"));
}, START_MS);
afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
}, MINUTE);

/** On the host's own network, where higgs runs already. */
async function firewalld(name: string): Promise<SystemdMachine> {
  const machine = await bootSystemd(lab.host(name), { debian: FIREWALLD });
  // Which of two policies is in force is decided by the package's own script.
  const actions = "/usr/share/polkit-1/actions/org.fedoraproject.FirewallD1";
  await machine.execOrThrow(["ln", "-sf", `${actions}.server.policy.choice`, `${actions}.policy`]);
  await machine.execOrThrow(["systemctl", "start", "firewalld"], { timeoutMs: MINUTE });
  const runs = async (): Promise<boolean> => (await machine.exec(["firewall-cmd", "--state"])).code === 0;
  await until(runs, { timeoutMs: MINUTE, what: "firewalld" });
  return machine;
}

const rulesOf = (name: string): Promise<string> =>
  lab.host(name).execOrThrow(["nft", "list", "table", "inet", "firewalld"]);

describe("firewalld", () => {
  test(
    "closes an exit, which says so; lets it through by the command that doctor names, and keeps its own rules",
    async () => {
      const pc = lab.host("home-pc");
      await using machine = await firewalld("home-pc");
      const status = async (): Promise<string> => (await higgs(pc, "node", "status")).stdout;
      await until(async () => (await status()).includes("filter_FORWARD"), { what: "the cause, by name" });
      expect(await status()).toContain("exit not ready");
      const doctor = (await higgs(pc, "doctor", "--role", "node")).stdout;
      const remedy = /sudo (firewall-cmd [^\n]*--reload)/.exec(doctor)?.[1] ?? "";
      expect(remedy).toContain("higgsn0");
      await machine.execOrThrow(["sh", "-ec", remedy.replaceAll("sudo ", "")], { timeoutMs: MINUTE });
      await until(async () => !(await status()).includes("exit not ready"), { what: "an exit that is let through" });
      await untilBrowses(lab.host("laptop"));
      const rules = await rulesOf("home-pc");
      await machine.execOrThrow(["firewall-cmd", "--reload"], { timeoutMs: MINUTE });
      await untilBrowses(lab.host("laptop"));
      expect(await rulesOf("home-pc")).toBe(rules);
      await machine.execOrThrow(["systemctl", "stop", "firewalld"]);
    },
    2 * MINUTE,
  );

  test(
    "is started, reloaded and stopped beside a connected client: not a packet leaves beside the tunnel",
    async () => {
      const laptop = lab.host("laptop");
      await untilBrowses(laptop);
      await using sniffer = await lab.host("cafe-router").sniff("lan", FLOOD);
      await using _flood = await startFlood(laptop);
      await using machine = await firewalld("laptop");
      await untilBrowses(laptop);
      const rules = await rulesOf("laptop");
      await machine.execOrThrow(["firewall-cmd", "--reload"], { timeoutMs: MINUTE });
      await machine.execOrThrow(["firewall-cmd", "--complete-reload"], { timeoutMs: MINUTE });
      await untilBrowses(laptop);
      expect(await rulesOf("laptop")).toBe(rules);
      await machine.execOrThrow(["systemctl", "stop", "firewalld"]);
      await untilBrowses(laptop);
      expect(sniffer.packets()).toEqual([]);
      await higgsOrThrow(laptop, "client", "down");
      await until(() => sniffer.packets().length > 0, { what: "the flood, which the sniffer sees" });
    },
    2 * MINUTE,
  );
});
