// The kill switch of a real laptop: nothing leaves whatever dies or restarts, it says so, and it always comes off to the last byte.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { higgs, higgsOrThrow, killNow, page, pidOf, startNetwork, untilBrowses, wireGuardPids } from "./client-lab.ts";
import { snapshot, until } from "./harness.ts";
import {
  flushAll,
  leaveOnly,
  mechanismAsked,
  restoreRules,
  rulesOf,
  takeClientRules,
  untilRules,
} from "./mechanisms.ts";
import { type Probe, probesTo } from "./state-probes.ts";
import { caughtUp, startStateLab, streamOrders, verdictsOf } from "./state-scene.ts";

const MINUTE = 60_000;
/** Of a test, on a machine that has other work. */
const LIMIT_MS = 2 * MINUTE;
const EXIT_BLOCKED = 10;
const WEB = ["203.0.113.80", "2001:db8:80::80"] as const;
const mechanism = mechanismAsked();
const LOCKDOWN_PATH = "/var/lib/higgs/client/lockdown.json";
let lab: Lab;
let laptop: LabHost;
let before: string;

beforeAll(async () => {
  lab = await startStateLab();
  laptop = lab.host("laptop");
  await startNetwork(lab);
  await leaveOnly(laptop, mechanism);
  // Once up and down, so that every file of the role's own is there: they stay.
  await client("up", "--lockdown");
  await client("down");
  await client("lockdown", "off");
  // As the control below does: iptables over nf_tables makes chains of the kernel's that it had not needed yet, and they stay.
  await restoreRules(laptop, mechanism, await rulesOf(laptop, mechanism));
  before = await snapshot(laptop);
}, MINUTE);

afterAll(async () => {
  await lab[Symbol.asyncDispose]();
}, MINUTE);

const client = (...args: readonly string[]): Promise<string> => higgsOrThrow(laptop, "client", ...args);
const toWeb = (): readonly Probe[] => WEB.flatMap((to) => probesTo(to));

async function waysNow(): Promise<readonly string[]> {
  return [...new Set((await verdictsOf(lab, toWeb())).values())];
}

/** A stream of datagrams to the web, a thousand a second, for as long as `act` goes on; what of it the café saw. */
async function seenWhile(act: () => Promise<unknown>): Promise<number> {
  const router = lab.host("cafe-router");
  await using sniffer = await router.sniff("lan", `(udp and dst host ${WEB[0]}) or icmp`);
  const script = `const s = require("dgram").createSocket("udp4").on("error", () => {}); s.bind(0, async () => {
    console.log("flooding");
    for (;;) { s.send("leak", 9999, "${WEB[0]}", () => {}); await Bun.sleep(1); } });`;
  await using flood = await laptop.spawn(["/usr/local/bin/bun", "-e", script]);
  await flood.waitForLine(/flooding/);
  await act();
  await caughtUp(sniffer, router, "192.168.7.2");
  return sniffer.packets().filter(({ text }) => text.startsWith("udp")).length;
}

test(
  "between two rulesets not one packet of a flood passes",
  async () => {
    // Positive control: the same rules, taken away and loaded again as two steps.
    await client("lockdown", "on");
    const rules = await rulesOf(laptop, mechanism);
    const steps = async (): Promise<void> => {
      for (let i = 0; i < 10; i++) {
        await takeClientRules(laptop, mechanism);
        await restoreRules(laptop, mechanism, rules);
      }
    };
    expect(await seenWhile(steps)).toBeGreaterThan(0);
    let changes = 0;
    const change = async (): Promise<void> => {
      for (const lan of ["--lan", "--no-lan", "--lan", "--no-lan"]) {
        await client("lockdown", "on", lan);
        changes++;
      }
      await client("up");
      await client("down");
      changes += 3; // to connecting, disconnecting, blocked
    };
    const rounds = 2;
    const seen = await seenWhile(async () => {
      for (let round = 0; round < rounds; round++) await change();
    });
    // What went through the tunnel while it was up is not seen on the LAN either.
    expect({ seen, changes }).toEqual({ seen: 0, changes: rounds * 7 });
  },
  LIMIT_MS,
);

const DEATHS: Readonly<Record<string, () => Promise<void>>> = {
  "the client": async () => killNow(laptop, await pidOf(laptop, "client")),
  "wireguard-go, and the client a moment later": async () => {
    await killNow(laptop, ...(await wireGuardPids(laptop, "higgs0")));
    await killNow(laptop, await pidOf(laptop, "client"));
  },
  "the client and its interface": async () => {
    await killNow(laptop, await pidOf(laptop, "client"));
    await laptop.execOrThrow(["ip", "link", "del", "higgs0"]);
  },
};
for (const [what, kill] of Object.entries(DEATHS)) {
  test(
    `nothing leaves when ${what} is killed; state clean keeps it closed, and lockdown off opens it to the last byte`,
    async () => {
      await client("up", "--lockdown");
      await untilBrowses(laptop);
      expect(await seenWhile(kill)).toBe(0);
      expect(await waysNow()).not.toContain("open");
      expect(await higgsOrThrow(laptop, "state", "clean", "--role", "client")).toContain("Kept the kill switch");
      expect(await waysNow()).toEqual(["closed"]);
      const status = await higgs(laptop, "client", "status");
      expect(status.code).toBe(EXIT_BLOCKED);
      expect(status.stdout).toContain("sudo higgs client up");
      await client("lockdown", "off");
      expect(await snapshot(laptop)).toBe(before);
    },
    LIMIT_MS,
  );
}

test(
  "rules that somebody flushed are back within a second, connected and disconnected alike",
  async () => {
    await client("up", "--lockdown");
    const times: number[] = [];
    for (let i = 0; i < 3; i++) {
      await flushAll(laptop, mechanism);
      const flushed = performance.now();
      await untilRules(laptop, mechanism, "closing");
      times.push(Math.round(performance.now() - flushed));
    }
    console.log(`flushed rules were back after ${times.join(", ")} ms`);
    expect(Math.min(...times)).toBeLessThan(1000); // the acceptance's bound; the machine may be busy at one of them
    await untilBrowses(laptop);
    await client("down");
    await client("lockdown", "off");
    expect(await snapshot(laptop)).toBe(before);
  },
  LIMIT_MS,
);

describe("a boot", () => {
  /** Ten seconds without the client's process, by a stream of ten rounds a second. */
  const ROUNDS = 100;

  /** As an early unit finds it: no link, no address, no route; the network comes up after it, and programs send all the time. */
  async function reboot(load: () => Promise<void>, rounds: number): Promise<number> {
    await using sniffer = await lab.host("cafe-router").sniff("lan", `host ${WEB[0]} or host ${WEB[1]}`);
    await laptop.powerOff();
    await laptop.boot();
    await leaveOnly(laptop, mechanism);
    await laptop.execOrThrow(["ip", "link", "set", "eth0", "down"]);
    await load();
    const orders = toWeb().map(({ order }) => order);
    await using stream = await streamOrders(laptop, orders, { everyMs: 100 });
    for (const command of [
      "ip link set eth0 up",
      "ip -6 addr replace 2001:db8:66:1::2/64 dev eth0 nodad",
      "ip route replace default via 192.168.7.1",
      "ip -6 route replace default via 2001:db8:66:1::1",
    ]) {
      await laptop.execOrThrow(command.split(" "));
    }
    const from = stream.rounds();
    await until(() => stream.rounds() >= from + rounds, { timeoutMs: 30_000, what: `${rounds} rounds of probes` });
    return sniffer.packets().length;
  }

  test(
    "under lockdown lets nothing out before a client connects, and everything without the early unit",
    async () => {
      await client("lockdown", "on");
      expect(await reboot(async () => undefined, 10)).toBeGreaterThan(0); // positive control
      expect((await higgs(laptop, "client", "status")).stdout).toContain("its rules are not loaded");
      expect(
        await reboot(
          async () => expect(await client("lockdown", "load")).toContain("The kill switch is loaded"),
          ROUNDS,
        ),
      ).toBe(0);
      expect(await client("lockdown", "load")).toContain("in place already");
      await client("up");
      await untilBrowses(laptop);
      await client("down");
      await client("lockdown", "off");
      expect(await client("lockdown", "load")).toContain("The kill switch is off");
      expect(await waysNow()).toEqual(["open"]);
    },
    LIMIT_MS,
  );

  test(
    "with a damaged file closes the machine and says so, and lockdown off mends it",
    async () => {
      await laptop.execOrThrow(["sh", "-c", `echo '{"version":1,"lock' > ${LOCKDOWN_PATH}`]);
      const loaded = await laptop.exec(["/usr/local/bin/higgs", "client", "lockdown", "load"]);
      expect(loaded.code).toBe(0);
      expect(loaded.stderr).toContain("its file is damaged");
      expect(await waysNow()).toEqual(["closed"]);
      const status = await higgs(laptop, "client", "status");
      expect(status.code).toBe(EXIT_BLOCKED);
      expect(status.stdout).toContain("its file cannot be read");
      // Not the server's fault.
      const doctor = (await higgs(laptop, "doctor")).stdout;
      expect(doctor).toContain("No internet: the kill switch is on");
      expect(doctor).not.toContain("Cannot reach the server");
      await client("lockdown", "off");
      expect(await waysNow()).toEqual(["open"]);
    },
    LIMIT_MS,
  );
});

/** A web server that sends everybody to its page, and a name server that says it is everything (RFC 1035, section 4.1). */
const PORTAL = `
  Bun.serve({ port: 8080, fetch: (request) => new URL(request.url).pathname === "/sign-in"
    ? new Response("sign in") : Response.redirect("http://192.168.7.1/sign-in", 302) });
  const names = require("dgram").createSocket("udp4");
  names.on("message", (query, from) => {
    const question = query.subarray(12, query.indexOf(0, 12) + 5);
    const isA = question.readUInt16BE(question.length - 4) === 1;
    const head = Buffer.concat([query.subarray(0, 2), Buffer.from([0x81, 0x80, 0, 1, 0, isA ? 1 : 0, 0, 0, 0, 0])]);
    const answer = Buffer.from(isA ? "c00c00010001000000050004c0a80701" : "", "hex");
    names.send(Buffer.concat([head, question, answer]), from.port, from.address);
  });
  names.bind(5353, () => console.log("portal"));`;
const PORTAL_RULES = `table inet portal {
  chain pre {
    type nat hook prerouting priority -150
    iifname "lan" tcp dport 80 redirect to :8080
    iifname "lan" udp dport 53 redirect to :5353
  }
  chain forward { type filter hook forward priority -10; iifname "lan" drop; }
}`;

test(
  "a captive portal stays closed, and status says so and what to type",
  async () => {
    const router = lab.host("cafe-router");
    // It answers for every web server and every name, and lets nothing else through.
    await using portal = await router.spawn(["/usr/local/bin/bun", "-e", PORTAL]);
    await portal.waitForLine(/portal/);
    await router.execOrThrow(["nft", "-f", "-"], { stdin: PORTAL_RULES });
    const signIn = (): Promise<string> => page(laptop, "http://web.lab.example/");
    try {
      expect(await signIn()).toBe("sign in"); // positive control: where nothing is closed it is what one sees
      // What it takes over while a client is connected stays closed as well.
      await router.execOrThrow(["nft", "delete", "table", "inet", "portal"]);
      await client("up");
      await router.execOrThrow(["nft", "-f", "-"], { stdin: PORTAL_RULES });
      expect(await waysNow()).not.toContain("open");
      expect(await signIn()).toBe("");
      await client("down");
      await client("lockdown", "on");
      const up = await higgs(laptop, "client", "up", "--timeout", "3s");
      expect(up.code === 0).toBe(false);
      expect(up.stderr).toContain("The kill switch is on");
      expect(await waysNow()).toEqual(["closed"]);
      expect(await signIn()).toBe("");
      const status = await higgs(laptop, "client", "status");
      expect(status.code).toBe(EXIT_BLOCKED);
      expect(status.stdout).toContain("sign in on a web page first, that page is closed too");
      expect(status.stdout).toContain("sudo higgs client lockdown off");
    } finally {
      await router.execOrThrow(["nft", "delete", "table", "inet", "portal"]);
      await higgs(laptop, "client", "down");
      await client("lockdown", "off");
    }
  },
  LIMIT_MS,
);

describe("higgs panic", () => {
  test(
    "ends a connected client under lockdown, opens the machine, and says what it did; the second time there is nothing",
    async () => {
      const clean = await snapshot(laptop, { without: ["processes", "etc and run"] });
      await client("up", "--lockdown");
      const said = await higgsOrThrow(laptop, "panic");
      for (const what of [
        "Ended the client",
        "Switched the kill switch off",
        "higgs0",
        mechanism === "nft" ? "higgs_client" : "higgs-client-",
        "resolv.conf",
      ]) {
        expect(said).toContain(what);
      }
      expect(await snapshot(laptop, { without: ["processes", "etc and run"] })).toBe(clean);
      expect(await laptop.execOrThrow(["ls", "-A", "/run/higgs/client"])).toBe(""); // nor the lock of the client that was ended
      expect(await waysNow()).toEqual(["open"]);
      expect(await higgsOrThrow(laptop, "panic")).toContain("Nothing of higgs was found");
    },
    LIMIT_MS,
  );

  test(
    "needs no state: with the folder gone everything but what only the folder knew is put back, and that is named",
    async () => {
      const parts = { without: ["processes", "etc and run", "resolv.conf", "sysctls"] };
      const clean = await snapshot(laptop, parts);
      await client("up", "--lockdown");
      await killNow(laptop, await pidOf(laptop, "client"));
      await laptop.execOrThrow(["rm", "-r", "/var/lib/higgs"]);
      const panic = await higgs(laptop, "panic");
      expect(panic.code).toBe(1);
      expect(panic.stderr).toContain("/etc/resolv.conf");
      expect(await snapshot(laptop, parts)).toBe(clean);
      expect(await waysNow()).toEqual(["open"]);
    },
    LIMIT_MS,
  );
});
