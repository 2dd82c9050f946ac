// The exit with real clients: what they reach through it, what they never reach, and that nothing reaches them.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Sniffer } from "../../src/lab/sniffer.ts";
import { exitMechanisms } from "./exit-mechanism.ts";
import { until } from "./harness.ts";
import {
  answered,
  answersOf,
  forbidden,
  inbound,
  INTERNET,
  PORT,
  type Scene,
  startScene,
  WEB4,
  WEB6,
  withoutIsolation,
} from "./exit-scene.ts";
import { tcp, udp } from "./net-hosts.ts";
import { segmentSizes } from "./segment-size.ts";

const START_MS = 60_000;
/** From a neighbour at home, which has a route by the home PC for it. */
const NEIGHBOUR = { internet: tcp(WEB4, PORT) };

describe.each([...exitMechanisms("nft", "iptables-legacy")])("the exit by $name", (mechanism) => {
  let scene: Scene;
  const host = (name: string) => scene.lab.host(name);
  const names = (probes: object) => Object.keys(probes);

  beforeAll(async () => {
    scene = await startScene(mechanism);
  }, START_MS);
  afterAll(async () => {
    await scene?.lab[Symbol.asyncDispose]();
  });

  test("leads clients to the internet in both families, with the home's addresses", async () => {
    for (const client of ["laptop", "tablet"]) {
      expect(await answersOf(host(client), INTERNET)).toEqual({
        "internet, tcp": `web:${PORT} 203.0.113.7`,
        "internet, udp": `web:${PORT} 203.0.113.7`,
        "internet, tcp 6": `web:${PORT} 2001:db8:7:1::10`,
        "internet, udp 6": `web:${PORT} 2001:db8:7:1::10`,
      });
    }
  });

  test("positive control: without its rules every place answers, and packets with tunnel addresses are on the LAN", async () => {
    const { addresses } = scene;
    await withoutIsolation(scene, async () => {
      await using sniffer = await host("home-pc").sniff(
        "eth0",
        `src net ${addresses.range4} or src host ${addresses.laptop6}`,
      );
      const closed = forbidden(addresses);
      expect(await answered(host("laptop"), { ...INTERNET, ...closed })).toEqual([
        ...names(INTERNET),
        ...names(closed),
      ]);
      for (const place of ["home-nas", "web"]) {
        const ways = inbound(addresses);
        expect([place, await answered(host(place), ways)]).toEqual([place, names(ways)]);
      }
      await until(() => sniffer.packets().some((packet) => packet.text.includes(addresses.laptop4)));
      expect(await answered(host("home-nas"), NEIGHBOUR)).toEqual(["internet"]);
    });
  });

  test("lets clients reach nothing of the home, no metadata, no mail and no other client", async () => {
    const { addresses } = scene;
    await using sniffer = await host("home-pc").sniff(
      "eth0",
      `src net ${addresses.range4} or src host ${addresses.laptop6}`,
    );
    expect(await answered(host("laptop"), { ...INTERNET, ...forbidden(addresses) })).toEqual(names(INTERNET));
    expect(await answered(host("tablet"), { ...INTERNET, "the laptop": tcp(addresses.laptop4, PORT) })).toEqual(
      names(INTERNET),
    );
    expect(sniffer.packets().map((packet) => packet.text)).toEqual([]);
  });

  test("refuses mail at once instead of keeping the sender waiting", async () => {
    const answers = await answersOf(host("laptop"), { mail: tcp(WEB4, 25), "mail, 6": tcp(WEB6, 25) });
    expect(answers["mail"]).toMatch(/^(ECONNREFUSED|EHOSTUNREACH)$/);
    expect(answers["mail, 6"]).toMatch(/^(ECONNREFUSED|EACCES)$/);
  });

  test("lets nobody of the home or the internet into the tunnel", async () => {
    const { addresses } = scene;
    // The kinds that are sent, and nothing that an earlier test's connections may still have to say (RFC 8200: the next header is byte 6).
    const syn6 = "(ip6[6] == 6 and ip6[53] & 2 != 0)";
    const filter = `udp port ${PORT} or tcp[tcpflags] & tcp-syn != 0 or ${syn6}`;
    await using sniffer = await host("laptop").sniff("higgs0", filter);
    expect(await answered(host("home-nas"), inbound(addresses))).toEqual([]);
    expect(await answered(host("web"), inbound(addresses))).toEqual([]);
    expect(await answered(host("home-router"), inbound(addresses))).toEqual([]);
    expect(sniffer.packets().map((packet) => packet.text)).toEqual([]);
  });

  test("takes packets from nobody's address, nor from another client's", async () => {
    const { addresses } = scene;
    const stranger = addresses.laptop4.replace(/\.\d+$/, ".250");
    const laptop = host("laptop");
    const pc = host("home-pc");
    const key = (await laptop.execOrThrow(["wg", "show", "higgs0", "public-key"])).trim();
    const from = (address: string) => ({ spoofed: udp(WEB4, PORT, { from: address }) });
    for (const address of [stranger, addresses.tablet4]) {
      await laptop.execOrThrow(["ip", "addr", "add", `${address}/32`, "dev", "lo"]);
    }
    await using sniffer = await pc.sniff("eth0", `udp and dst host ${WEB4} and dst port ${PORT}`);
    for (const address of [stranger, addresses.tablet4]) {
      expect([address, await answered(laptop, from(address))]).toEqual([address, []]);
    }
    // WireGuard itself takes only the client's own address; with that opened, the rules must hold by themselves. A node that runs closes it again.
    const own = `${addresses.laptop4}/32,${addresses.laptop6}/128`;
    // With the node asleep nobody answers the client's checks: what keeps its direct path is that packets come by it.
    await using pulse = await laptop.spawn(["ping", "-n", "-i", "0.1", WEB4]);
    await pulse.waitForLine(/bytes from/);
    scene.node.kill("SIGSTOP");
    await pc.execOrThrow(["wg", "set", "higgsn0", "peer", key, "allowed-ips", `${own},${stranger}/32`]);
    expect(await answered(laptop, from(stranger))).toEqual([]);
    expect(sniffer.packets()).toEqual([]);
    await withoutIsolation(scene, async () => {
      await until(async () => (await answered(laptop, from(stranger))).includes("spoofed"), {
        what: "what is spoofed",
      });
    });
    await pc.execOrThrow(["wg", "set", "higgsn0", "peer", key, "allowed-ips", own]);
    for (const address of [stranger, addresses.tablet4]) {
      await laptop.execOrThrow(["ip", "addr", "del", `${address}/32`, "dev", "lo"]);
    }
    expect(await answered(laptop, INTERNET)).toEqual(names(INTERNET));
    expect(await answered(host("tablet"), INTERNET)).toEqual(names(INTERNET));
  });

  test("is no router for its neighbours: the home PC forwards for its clients alone", async () => {
    await using sniffer = await host("home-pc").sniff("eth0", `tcp and src host 192.168.1.20 and dst host ${WEB4}`);
    expect(await answered(host("home-nas"), NEIGHBOUR)).toEqual([]);
    await until(() => sniffer.packets().length > 0); // they did arrive there
    expect(await answered(host("laptop"), INTERNET)).toEqual(names(INTERNET));
  });

  test("is back within moments when somebody takes its rules away", async () => {
    const pc = host("home-pc");
    const before = await mechanism.rules(pc);
    for (const deed of mechanism.deeds) {
      await pc.execOrThrow(["sh", "-ec", deed]);
      const takenAt = performance.now();
      // Sooner than the next renewal of the lease, which would find it too.
      await until(async () => (await mechanism.rules(pc)) === before, {
        timeoutMs: 3_000,
        what: `the rules after ${deed}`,
      });
      console.log(`${deed}: back after ${Math.round(performance.now() - takenAt)} ms`);
      await until(async () => (await mechanism.leaseLeftS(pc)) > 0, { what: "the lease" });
    }
    expect(await answered(host("laptop"), { ...INTERNET, ...forbidden(scene.addresses) })).toEqual(names(INTERNET));
  });

  test("makes segments fit the tunnel in both directions", async () => {
    const laptop = host("laptop");
    const size = "tcp[tcpflags] & tcp-syn != 0";
    // As a machine behind the client would ask for it: larger segments than the tunnel takes.
    await laptop.execOrThrow(["ip", "route", "add", WEB4, "dev", "higgs0", "table", "100", "advmss", "1460"]);
    await laptop.execOrThrow(["ip", "rule", "add", "pref", "5000", "to", WEB4, "lookup", "100"]);
    await using atLaptop = await laptop.sniff("higgs0", size);
    await using atWeb = await host("web").sniff("eth0", size);
    // What nobody answered in time is sent again.
    const sizesOnce = (sniffer: Sniffer) => [...new Set(segmentSizes(sniffer.packets()))];
    expect(await answered(laptop, { internet: tcp(WEB4, PORT) })).toEqual(["internet"]);
    const asked = {
      port: PORT,
      seen: () => ({ laptop: sizesOnce(atLaptop), web: sizesOnce(atWeb) }),
    };
    await until(() => asked.seen().laptop.length >= 2 && asked.seen().web.length >= 2);
    await laptop.execOrThrow(["ip", "rule", "del", "pref", "5000"]);
    // SYN and its answer: 1460 where they are made, 1380 (MTU 1420 less 40) where they arrive.
    expect(asked.seen()).toEqual({ laptop: [1460, 1380], web: [1380, 1460] });
  });
});
