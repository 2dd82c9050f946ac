// Proves the lab itself: addresses as the internet sees them, closed homes, DNS, machines that are apart from each other, and a sniffer that sees.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { encode } from "dns-packet";
import type { DnsStats } from "../../src/lab/dns-server.ts";
import { LabCommandFailed, LabTimeout } from "../../src/lab/errors.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { LAB_CA_PATH } from "../../src/lab/service.ts";
import { DNS_NAME, WEB_NAME, WHOAMI_NAME } from "../../src/lab/small-internet.ts";
import { bundleForHosts } from "./bundle.ts";
import { failureOf, snapshot, startSourceLab, until } from "./harness.ts";

const WEB4 = "http://203.0.113.80";
const WEB6 = "http://[2001:db8:80::80]";
const STATS = "http://203.0.113.53/stats";
const START_MS = 60_000;

/** Node's and Bun's resolvers read the machine's files once; a program of its own reads the host's. */
function resolveScript(name: string, type: "A" | "AAAA" | "TXT"): readonly string[] {
  const script = `const r = await require("node:dns").promises.resolve(${JSON.stringify(name)}, "${type}"); console.log(r.flat().join(" "))`;
  return ["bun", "-e", script];
}

let lab: Lab;
beforeAll(async () => {
  lab = await startSourceLab();
}, START_MS);
afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
});

async function curl(host: string, ...args: readonly string[]): Promise<string> {
  return (await lab.host(host).execOrThrow(["curl", "-sS", "--max-time", "20", ...args])).trim();
}

describe("the small internet", () => {
  test("shows the laptop's page the café router's address in IPv4, and the laptop's own in IPv6", async () => {
    expect(await curl("laptop", `${WEB4}/`)).toBe("203.0.113.66");
    expect(await curl("laptop", `${WEB6}/`)).toBe("2001:db8:66:1::2");
  });

  test("shows the home PC's page the home router's address in IPv4, and its own in IPv6", async () => {
    expect(await curl("home-pc", `${WEB4}/`)).toBe("203.0.113.7");
    expect(JSON.parse(await curl("home-pc", `${WEB6}/json`))).toMatchObject({ address: "2001:db8:7:1::10", family: 6 });
  });

  test("finds the web server by its name in both families", async () => {
    expect(await curl("laptop", "-4", `http://${WEB_NAME}/`)).toBe("203.0.113.66");
    expect(await curl("vps", "-6", `http://${WEB_NAME}/`)).toBe("2001:db8:10::10");
  });

  test("streams as many bytes as asked for, and counts what is uploaded", async () => {
    const bytes = await lab.host("home-pc").execOrThrow(["curl", "-sS", "-o", "/tmp/bytes", `${WEB4}/bytes?n=1000003`]);
    expect(bytes).toBe("");
    expect((await lab.host("home-pc").execOrThrow(["stat", "-c", "%s", "/tmp/bytes"])).trim()).toBe("1000003");
    expect(await curl("home-pc", "--data-binary", "@/tmp/bytes", `${WEB4}/sink`)).toBe('{"bytes":1000003}');
  });

  test("lets nobody into the home or the café who was not asked, in either family", async () => {
    const listener = `Bun.serve({ hostname: "::", port: 8080, fetch: () => new Response("in") }); console.log("ready")`;
    for (const [inside, neighbour, address4, address6] of [
      ["home-pc", "home-nas", "192.168.1.10", "2001:db8:7:1::10"],
      ["laptop", "cafe-router", "192.168.7.2", "2001:db8:66:1::2"],
    ] as const) {
      await using server = await lab.host(inside).spawn(["bun", "-e", listener]);
      await server.waitForLine(/^ready$/);
      await using sniffer = await lab.host(inside).sniff("eth0", "tcp dst port 8080");
      expect(await curl(neighbour, `http://${address4}:8080/`)).toBe("in");
      expect(await curl(neighbour, `http://[${address6}]:8080/`)).toBe("in");
      const seen = () => sniffer.packets().map((packet) => packet.text);
      await until(
        () =>
          seen().some((text) => text.includes(`${address4}:8080`)) &&
          seen().some((text) => text.includes(`[${address6}]:8080`)),
      );
      const router4 = inside === "home-pc" ? "203.0.113.7" : "203.0.113.66";
      for (const target of [`${router4}:8080`, `[${address6}]:8080`]) {
        const tried = await lab.host("vps").exec(["curl", "-sS", "--connect-timeout", "0.3", `http://${target}/`]);
        expect(tried.code).not.toBe(0);
      }
      expect(seen().filter((text) => /203\.0\.113\.10:|2001:db8:10::10/.test(text))).toEqual([]);
    }
  });

  test("has a home whose LAN answers at home and not at the café", async () => {
    const listener = `Bun.serve({ hostname: "0.0.0.0", port: 80, fetch: () => new Response("files") }); console.log("ready")`;
    await using nas = await lab.host("home-nas").spawn(["bun", "-e", listener]);
    await nas.waitForLine(/^ready$/);
    expect(await curl("home-pc", "http://192.168.1.20/")).toBe("files");
    const tried = await lab.host("laptop").exec(["curl", "-sS", "--connect-timeout", "0.3", "http://192.168.1.20/"]);
    expect(tried.code).not.toBe(0);
  });
});

describe("the lab's DNS server", () => {
  test("answers over UDP through the router, over TCP, and counts who asked how", async () => {
    await curl("dns", "-X", "DELETE", "http://203.0.113.53/stats");
    expect((await lab.host("laptop").execOrThrow(resolveScript(WEB_NAME, "A"))).trim()).toBe("203.0.113.80");
    expect((await lab.host("home-pc").execOrThrow(resolveScript(WEB_NAME, "AAAA"))).trim()).toBe("2001:db8:80::80");
    expect((await lab.host("laptop").execOrThrow(resolveScript(WHOAMI_NAME, "TXT"))).trim()).toBe("203.0.113.66");
    const tcp = `
      const { encode, decode } = require("dns-packet");
      const query = encode({ type: "query", id: 7, questions: [{ type: "A", name: ${JSON.stringify(WEB_NAME)} }] });
      const length = Buffer.alloc(2); length.writeUInt16BE(query.length);
      await Bun.connect({ hostname: "203.0.113.53", port: 53, socket: {
        open(socket) { socket.write(Buffer.concat([length, query])); },
        data(socket, bytes) { console.log(decode(bytes.subarray(2)).answers[0].data); socket.end(); },
      } });`;
    await lab.host("laptop").writeFile("/root/tcp.js", await bundleForHosts("tcp.ts", tcp));
    expect((await lab.host("laptop").execOrThrow(["bun", "/root/tcp.js"])).trim()).toBe("203.0.113.80");
    const stats = JSON.parse(await curl("dns", STATS)) as DnsStats;
    expect(stats).toMatchObject({ udp: 3, tcp: 1, doh: 0, malformed: 0 });
    expect(stats.queries).toContainEqual({ transport: "tcp", asker: "203.0.113.66", name: WEB_NAME, type: "A" });
    expect(stats.queries).toContainEqual({ transport: "udp", asker: "203.0.113.7", name: WEB_NAME, type: "AAAA" });
  });

  test("answers DNS over HTTPS by GET and POST with a certificate of the lab's CA, and of that alone", async () => {
    const query = encode({ type: "query", id: 1, questions: [{ type: "A", name: WEB_NAME }] });
    const laptop = lab.host("laptop");
    await laptop.writeFile("/root/query", query);
    const url = `https://${DNS_NAME}/dns-query`;
    const type = "content-type: application/dns-message";
    const post = ["--data-binary", "@/root/query", "-H", type, url];
    const get = `${url}?dns=${query.toString("base64url")}`;
    const address = Buffer.from([203, 0, 113, 80]).toString("hex");
    for (const args of [post, [get]]) {
      await laptop.execOrThrow(["curl", "-sS", "--cacert", LAB_CA_PATH, "-o", "/root/reply", ...args]);
      const hex = (await laptop.execOrThrow(["od", "-An", "-v", "-tx1", "/root/reply"])).replaceAll(/\s/g, "");
      expect(hex.endsWith(address)).toBe(true);
    }
    const untrusting = await laptop.exec(["curl", "-sS", ...post]);
    expect(untrusting.code).toBe(60); // curl: the certificate is not trusted
  });
});

describe("a lab host", () => {
  test("has its own name, /etc, /run, /tmp, /var/lib and processes, and the usual interface names", async () => {
    const seen = new Set<string>();
    for (const host of lab.hosts) {
      expect((await host.execOrThrow(["hostname"])).trim()).toBe(host.name);
      await host.writeFile("/run/mark", host.name);
      await host.writeFile("/etc/mark", host.name);
      await host.writeFile("/tmp/mark", host.name);
      await host.writeFile("/var/lib/mark", host.name);
      seen.add((await host.execOrThrow(["cat", "/etc/machine-id"])).trim());
    }
    expect(seen.size).toBe(lab.hosts.length);
    for (const host of lab.hosts) {
      const marks = await host.execOrThrow(["cat", "/run/mark", "/etc/mark", "/tmp/mark", "/var/lib/mark"]);
      expect(marks).toBe(host.name.repeat(4));
      const links = (await host.execOrThrow(["ls", "/sys/class/net"])).trim().split("\n");
      expect(links).toEqual(host.spec.kind === "router" ? ["lan", "lo", "wan"] : ["eth0", "lo"]);
    }
    expect(existsSync("/run/mark") || existsSync("/etc/mark") || existsSync("/var/lib/mark")).toBe(false);
  });

  test("has a resolv.conf that is a regular file and can be renamed over", async () => {
    const laptop = lab.host("laptop");
    const before = await laptop.readFile("/etc/resolv.conf");
    expect(before).toBe("nameserver 192.168.7.1\n");
    expect((await laptop.execOrThrow(["stat", "-c", "%F %a", "/etc/resolv.conf"])).trim()).toBe("regular file 644");
    await laptop.execOrThrow(["cp", "/etc/resolv.conf", "/etc/resolv.conf.new"]);
    await laptop.execOrThrow(["mv", "/etc/resolv.conf.new", "/etc/resolv.conf"]);
    expect(await laptop.readFile("/etc/resolv.conf")).toBe(before);
  });

  test("has the kernel settings of a fresh Debian", async () => {
    const read = (path: string) => lab.host("laptop").readFile(`/proc/sys/net/${path}`);
    expect(await read("ipv4/ip_forward")).toBe("0\n");
    expect(await read("ipv4/conf/all/rp_filter")).toBe("0\n");
    expect(await read("ipv4/conf/eth0/rp_filter")).toBe("2\n");
    expect(await read("ipv6/conf/eth0/disable_ipv6")).toBe("0\n");
    expect(await read("ipv6/conf/eth0/accept_ra")).toBe("1\n");
  });

  test("can make a tunnel device", async () => {
    await lab.host("laptop").execOrThrow(["ip", "tuntap", "add", "dev", "higgs0", "mode", "tun"]);
    await lab.host("laptop").execOrThrow(["ip", "link", "del", "higgs0"]);
  });

  test("gives the same snapshot twice, another when something changed, and the first again when it is put back", async () => {
    const laptop = lab.host("laptop");
    const before = await snapshot(laptop);
    expect(await snapshot(laptop)).toBe(before);
    for (const [change, back] of [
      ["nft add table inet trace", "nft delete table inet trace"],
      ["ip rule add pref 5210 fwmark 0x1 lookup main", "ip rule del pref 5210"],
      ["ip -6 route add unreachable default table 5270", "ip -6 route del unreachable default table 5270"],
      ["sysctl -qw net.ipv4.conf.all.src_valid_mark=1", "sysctl -qw net.ipv4.conf.all.src_valid_mark=0"],
      ["chmod 600 /etc/resolv.conf", "chmod 644 /etc/resolv.conf"],
      ["ip link add trace type bridge", "ip link del trace"],
    ] as const) {
      await laptop.execOrThrow(change.split(" "));
      expect(await snapshot(laptop)).not.toBe(before);
      await laptop.execOrThrow(back.split(" "));
      expect(await snapshot(laptop)).toBe(before);
    }
    const sleeper = await laptop.spawn(["sleep", "600"]);
    expect(await snapshot(laptop)).toContain("sleep 600");
    await sleeper[Symbol.asyncDispose]();
    expect(await snapshot(laptop)).toBe(before);
  });

  test("bug: a host with a program that was stopped is gone after a power cut", async () => {
    const host = lab.host("home-nas");
    const sleeper = await host.spawn(["sleep", "1000"]);
    sleeper.kill("SIGSTOP");
    const { pid } = host;
    await until(async () => (await host.exec(["ps", "-o", "stat=", "-p", String(sleeper.pid)])).stdout.startsWith("T"));
    await host.powerOff();
    await until(() => !existsSync(`/proc/${pid}`), { what: "the end of the host's first process" });
    await host.boot();
  });

  test("keeps its disk through a power cut, and loses its processes, /run and /tmp", async () => {
    const host = lab.host("home-nas");
    const before = await snapshot(host, { without: ["etc and run"] });
    const sleeper = await host.spawn(["sleep", "600"]);
    await host.writeFile("/var/lib/kept", "kept");
    await host.writeFile("/etc/kept", "kept");
    await host.writeFile("/run/lost", "lost");
    await host.powerOff();
    expect(await sleeper.exited).not.toBe(0);
    expect(host.isOn).toBe(false);
    await host.boot();
    expect(await host.readFile("/var/lib/kept")).toBe("kept");
    expect(await host.readFile("/etc/kept")).toBe("kept");
    expect((await host.exec(["cat", "/run/lost"])).code).toBe(1);
    expect(await snapshot(host, { without: ["etc and run", "links"] })).toBe(
      before.replace(/== links\n[^=]*\n(?===)/, ""),
    );
    expect(await curl("home-nas", `${WEB4}/`)).toBe("203.0.113.7");
  });

  test("is reached again after its router was switched off and on", async () => {
    const router = lab.host("cafe-router");
    await router.powerOff();
    expect((await lab.host("laptop").exec(["curl", "-sS", "--connect-timeout", "0.3", `${WEB4}/`])).code).not.toBe(0);
    await router.boot();
    expect(await curl("laptop", `${WEB4}/`)).toBe("203.0.113.66");
    expect(await curl("laptop", `${WEB6}/`)).toBe("2001:db8:66:1::2");
  });

  test("has orphans reaped, as an init does it", async () => {
    const laptop = lab.host("laptop");
    await laptop.execOrThrow(["sh", "-c", "sleep 0.01 & exit 0"]);
    await until(async () => !(await laptop.execOrThrow(["ps", "-e", "-o", "comm"])).includes("sleep"));
  });
});

describe("exec() and spawn()", () => {
  test("give the exit code, both streams and the input", async () => {
    const host = lab.host("vps");
    const result = await host.exec(["sh", "-c", "cat; echo no >&2; exit 7"], { stdin: "yes" });
    expect(result).toEqual({ code: 7, stdout: "yes", stderr: "no\n" });
    expect((await host.exec(["sh", "-c", "echo $PATH; echo $EXTRA"], { env: { EXTRA: "more" } })).stdout).toMatch(
      /^\/usr\/local\/sbin.*\nmore\n$/,
    );
    expect(await failureOf(host.execOrThrow(["false"]))).toBeInstanceOf(LabCommandFailed);
  });

  test("leave no program behind after a timeout or an abort", async () => {
    const host = lab.host("vps");
    expect(await failureOf(host.exec(["sleep", "601"], { timeoutMs: 50 }))).toBeInstanceOf(LabTimeout);
    const controller = new AbortController();
    const pending = host.exec(["sleep", "602"], { signal: controller.signal });
    await until(async () => (await host.execOrThrow(["ps", "-e", "-o", "args"])).includes("sleep 602"));
    controller.abort(new Error("enough"));
    expect(await failureOf(pending)).toEqual(new Error("enough"));
    await until(async () => !(await host.execOrThrow(["ps", "-e", "-o", "args"])).includes("sleep 60"));
  });

  test("tell a running program's pid as the host sees it, its lines, and pass signals on", async () => {
    const host = lab.host("vps");
    const script = "trap 'echo told; exit 3' TERM; echo $$; while :; do sleep 0.01; done";
    await using child = await host.spawn(["sh", "-c", script]);
    expect(await child.waitForLine(/^\d+$/)).toBe(String(child.pid));
    child.kill("SIGTERM");
    expect(await child.exited).toBe(3);
    expect(child.lines).toEqual([String(child.pid), "told"]);
    const killed = await host.spawn(["sleep", "603"]);
    killed.kill("SIGKILL");
    expect(await killed.exited).toBe(137);
  });
});

describe("sniff()", () => {
  test("sees a packet with both its addresses, and only what the filter lets through", async () => {
    await using outside = await lab.host("cafe-router").sniff("wan", "udp port 9999");
    await using inside = await lab.host("laptop").sniff("eth0", "udp port 9999");
    const send = `const s = await Bun.udpSocket({ port: 40123 }); s.send("a secret", 9999, "203.0.113.10"); s.close()`;
    await lab.host("laptop").execOrThrow(["bun", "-e", send]);
    const [packet] = await until(() => outside.packets().length > 0 && outside.packets());
    expect(packet?.text).toBe("udp 203.0.113.66:40123 > 203.0.113.10:9999 length 8");
    expect(Buffer.from(packet?.bytes ?? []).includes("a secret")).toBe(true);
    await until(() => inside.packets().length > 0);
    expect(inside.packets()[0]?.text).toBe("udp 192.168.7.2:40123 > 203.0.113.10:9999 length 8");
    await outside.stop();
    expect(outside.packets()).toHaveLength(1);
  });

  test("says why it cannot", async () => {
    expect(String(await failureOf(lab.host("laptop").sniff("none")))).toMatch(/Cannot sniff "none": .*none/s);
  });
});
