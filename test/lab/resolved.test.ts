// Names on a laptop with a real systemd-resolved, D-Bus and systemd: asked through the tunnel alone while connected, and as before after it.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { smallInternet, WEB_NAME } from "../../src/lab/small-internet.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { dnsStats, forgetQueries } from "./dns-hosts.ts";
import { debianRoot } from "./debian-root.ts";
import { until } from "./harness.ts";
import { HIGGS, invite, startNetworkLab, startNode, startServer } from "./network.ts";
import { caughtUp } from "./state-scene.ts";
import { bootSystemd, type SystemdMachine } from "./systemd-machine.ts";

const MINUTE = 60_000;
/** The packages of a Debian are fetched and unpacked once. */
const START_MS = 5 * MINUTE;
const WEB4 = "203.0.113.80";
/** As whom the internet sees the laptop without a tunnel. */
const CAFE: readonly string[] = ["203.0.113.66", "2001:db8:66:1::2"];
const CAFE_RESOLVER = "192.168.7.1";
const VERBS = ["dns", "domain", "default-route"] as const;

describe("names through a real systemd-resolved", () => {
  let lab: Lab;
  let laptop: SystemdMachine;
  let before: string;

  beforeAll(async () => {
    lab = await startNetworkLab(smallInternet(), { visible: [await debianRoot()] });
    laptop = await bootSystemd(lab.host("laptop"), { resolved: true });
    await startServer(lab);
    await startNode(lab.host("home-pc"), { join: await invite(lab, "node") });
    await laptop.execOrThrow([HIGGS, "client", "join", await invite(lab, "client")]);
    // As NetworkManager or networkd tells it what the café's DHCP said.
    await resolvectl("dns", "eth0", CAFE_RESOLVER);
    await laptop.execOrThrow([HIGGS, "client", "up"]);
    await laptop.execOrThrow([HIGGS, "client", "down"]);
    before = await settings();
  }, START_MS);
  afterAll(async () => {
    await laptop?.[Symbol.asyncDispose]();
    await lab?.[Symbol.asyncDispose]();
  }, MINUTE);
  beforeEach(async () => {
    expect(await settings()).toBe(before);
  });
  afterEach(async () => {
    await laptop.exec([HIGGS, "client", "down"]); // still up only where the test has failed
    await laptop.execOrThrow(["systemctl", "reset-failed", "systemd-resolved"]); // more starts than a person makes
    await resolvectl("dns", "eth0", CAFE_RESOLVER); // what lost resolved's memory lost this too
  });

  const resolvectl = (...args: readonly string[]): Promise<string> => laptop.execOrThrow(["resolvectl", ...args]);
  const up = async (): Promise<void> => void (await laptop.execOrThrow([HIGGS, "client", "up"]));
  const down = async (): Promise<void> => void (await laptop.execOrThrow([HIGGS, "client", "down"]));

  /** What every link asks, the file that programs read, and what higgs remembers. */
  async function settings(): Promise<string> {
    // A question, sent to nobody: resolved looks at somebody else's resolv.conf only then.
    await laptop.exec(["resolvectl", "query", "--network=no", "--cache=no", WEB_NAME]);
    const links = (await Promise.all(VERBS.map((verb) => resolvectl(verb)))).join("");
    const file = await laptop.execOrThrow(["sh", "-c", "stat -c '%F %N' /etc/resolv.conf; cat /etc/resolv.conf"]);
    return `${links}${file}${(await laptop.exec(["ls", "/var/lib/higgs/client/journal.json"])).stdout}`;
  }

  /** By nss-resolve, by the stub and by D-Bus, never from a cache. */
  async function askEverywhere(): Promise<void> {
    await resolvectl("flush-caches");
    expect(await laptop.execOrThrow(["getent", "ahostsv4", WEB_NAME])).toContain(WEB4);
    await resolvectl("flush-caches");
    expect(await laptop.execOrThrow([HIGGS, "lab-service", "fetch", `http://${WEB_NAME}/`])).not.toBe("");
    expect(await resolvectl("query", "--cache=no", WEB_NAME)).toContain(WEB4);
  }

  /** The queries that the café's LAN sees meanwhile. */
  async function seenOnLan(ask: () => Promise<void>): Promise<readonly string[]> {
    const router = lab.host("cafe-router");
    await using sniffer = await router.sniff("lan", "port 53 or port 853 or icmp");
    await ask();
    await caughtUp(sniffer, router, "192.168.7.2");
    return sniffer.packets().flatMap(({ text }) => (/[.:](?:53|853)\b/.test(text) ? [text] : []));
  }

  async function expectTunnelled(claimed = ""): Promise<void> {
    const link = (await Promise.all(VERBS.map((verb) => resolvectl(verb, "higgs0")))).join("");
    expect(link).toMatch(/: 10\.\d+\.0\.1 fd[0-9a-f:]+::1\n/);
    expect(link).toMatch(new RegExp(`: ~\\.${claimed}\nLink \\d+ \\(higgs0\\): yes\n$`));
    await forgetQueries(lab);
    expect(await seenOnLan(askEverywhere)).toEqual([]);
    const stats = await dnsStats(lab);
    expect(stats.queries.filter((query) => CAFE.includes(query.asker))).toEqual([]);
    // A claimed name is asked of the café's server too, by TCP in the tunnel: there the node answers for every server.
    if (claimed === "") expect(await resolvectl("query", "--cache=no", WEB_NAME)).toContain("link: higgs0");
  }

  const isSet = async (): Promise<boolean> => (await resolvectl("domain", "higgs0")).includes("~.");

  test("positive control: without higgs the café's resolver is asked in plain text, and the LAN sees it", async () => {
    expect((await seenOnLan(askEverywhere)).length).toBeGreaterThan(3);
    expect(await resolvectl("query", "--cache=no", WEB_NAME)).toContain("link: eth0");
  });

  test("while connected every query goes through the tunnel, and after down everything is as before", async () => {
    await up();
    await expectTunnelled();
    expect(await laptop.readFile("/etc/resolv.conf")).toContain("nameserver 127.0.0.53");
    await down();
    expect(await settings()).toBe(before);
    expect((await seenOnLan(askEverywhere)).length).toBeGreaterThan(3);
  });

  // The café's DHCP may hand out any domain, and resolved then asked the café for its names, past the tunnel.
  test("names that the café's network claims go through the tunnel too, and no question leaves in another form", async () => {
    await resolvectl("domain", "eth0", "lab.example");
    try {
      expect((await seenOnLan(askEverywhere)).length).toBeGreaterThan(3); // positive control
      await up();
      await expectTunnelled(" ~lab.example");
      await using sniffer = await lab.host("cafe-router").sniff("lan", "port 5353 or port 5355");
      await laptop.exec(["resolvectl", "query", "--cache=no", "printer"], { timeoutMs: 20_000 }); // by LLMNR where it may
      expect(sniffer.packets().map((packet) => packet.text)).toEqual([]);
      expect(await seenOnLan(async () => void (await laptop.exec(["resolvectl", "query", "192.168.7.77"])))).toEqual(
        [],
      );
      await down();
      expect((await seenOnLan(askEverywhere)).length).toBeGreaterThan(3);
    } finally {
      await resolvectl("domain", "eth0", "");
    }
  });

  test("after kill -9 the settings stay with the tunnel, and state clean takes them away", async () => {
    await up();
    const { pid } = JSON.parse(await laptop.readFile("/run/higgs/client/lock")) as { pid: number };
    await laptop.execOrThrow(["kill", "-9", String(pid)]);
    expect(await isSet()).toBe(true);
    const said = await laptop.execOrThrow([HIGGS, "state", "clean", "--role", "client"]);
    expect(said).toContain("Took the DNS servers off higgs0 in systemd-resolved.");
    expect(await settings()).toBe(before);
  });

  test("a restart of resolved, also by kill -9, changes nothing for the tunnel", async () => {
    await up();
    for (const how of [["restart"], ["kill", "-s", "KILL"]]) {
      await laptop.execOrThrow(["systemctl", ...how, "systemd-resolved"]);
      await until(isSet, { what: "the tunnel's servers in a resolved that was started again" });
      await expectTunnelled();
    }
    await down();
  });

  // Each of these left names to the café's resolver for up to 30 seconds.
  const LOSSES: Readonly<Record<string, string>> = {
    "its memory of the links is gone and it starts anew":
      "systemctl stop systemd-resolved; rm -r /run/systemd/resolve/netif; systemctl start systemd-resolved",
    "somebody took the link's settings away": "resolvectl revert higgs0",
    "somebody gave the link another server": "resolvectl dns higgs0 203.0.113.53",
    "the interface was taken away and made anew": "ip link del higgs0",
    // A client that asks it at once starts it again, which cancels the stop.
    "resolved was stopped": "systemctl stop systemd-resolved || :",
  };
  for (const [what, script] of Object.entries(LOSSES)) {
    test(`is mended by itself when ${what}`, async () => {
      await up();
      await laptop.execOrThrow(["sh", "-c", script]);
      const mended = async (): Promise<boolean> => {
        const said = await laptop.exec(["resolvectl", "dns", "higgs0"]);
        return said.stdout.includes("fd") && (await isSet());
      };
      await until(mended, { timeoutMs: 15_000, what: `mended settings after ${script}` });
      await laptop.execOrThrow([HIGGS, "client", "wait", "--timeout", "40s"]);
      await expectTunnelled();
    });
  }

  /** The other ways in which resolved.conf(5) and people set the file up. */
  const FILES: Readonly<Record<string, string>> = {
    "a link to resolved's list of uplink servers": "ln -sf ../run/systemd/resolve/resolv.conf /etc/resolv.conf",
    "a file of its own that goes past resolved": `rm /etc/resolv.conf; echo nameserver ${CAFE_RESOLVER} > /etc/resolv.conf`,
  };
  for (const [what, script] of Object.entries(FILES)) {
    test(`sets the file too where it is ${what}, and puts it back`, async () => {
      await laptop.execOrThrow(["sh", "-c", script]);
      try {
        const file = await settings();
        await up();
        const text = await laptop.readFile("/etc/resolv.conf");
        expect(text).toContain("Written by higgs");
        expect(text).not.toContain(CAFE_RESOLVER);
        await expectTunnelled();
        await down();
        expect(await settings()).toBe(file);
      } finally {
        await laptop.execOrThrow(["ln", "-sf", "../run/systemd/resolve/stub-resolv.conf", "/etc/resolv.conf"]);
      }
    });
  }
});
