// IPv6 through the exit: the home's where the home has it, and refused at once where it has none, never past the tunnel.
import { describe, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import { smallInternet, WEB_NAME } from "../../src/lab/small-internet.ts";
import { until } from "./harness.ts";
import { ask, serve, tcp, udp } from "./net-hosts.ts";
import {
  clientStatus,
  connectClient,
  fetchPage,
  HIGGS,
  invite,
  nodeStatus,
  startNetworkLab,
  startNode,
  startServer,
} from "./network.ts";

const WEB6 = "2001:db8:80::80";
const PAGE6 = `http://[${WEB6}]/`;
const PORT = 8080;
const START_MS = 60_000;
/** Before the kernel itself gives up a neighbour that does not answer, which takes it three seconds. */
const AT_ONCE_MS = 2500;

/** The kernel's word for each way to knock on the web server in IPv6; "silence" when it kept the program waiting. */
function knocks(host: LabHost) {
  const more = { waitMs: AT_ONCE_MS };
  return ask(host, [tcp(WEB6, PORT, more), udp(WEB6, PORT, more)]);
}

describe("IPv6 through the exit", () => {
  test(
    "a page sees the home's address in both families, and the client's own in neither",
    async () => {
      await using lab = await startNetworkLab(smallInternet());
      const laptop = lab.host("laptop");
      await startServer(lab);
      await startNode(lab.host("home-pc"), { join: await invite(lab, "node") });
      expect(await fetchPage(laptop, PAGE6)).toBe("2001:db8:66:1::2"); // positive control
      await connectClient(lab, "laptop");
      expect(await fetchPage(laptop, PAGE6)).toBe("2001:db8:7:1::10");
      expect(await fetchPage(laptop, "http://203.0.113.80/")).toBe("203.0.113.7");
      expect((await nodeStatus(lab.host("home-pc"))).exit.ipv6).toBe(true);
      const curl = (family: string) =>
        laptop.execOrThrow(["curl", "-sS", "--max-time", "20", family, `http://${WEB_NAME}/`]);
      expect([await curl("-4"), await curl("-6")]).toEqual(["203.0.113.7\n", "2001:db8:7:1::10\n"]);
      await laptop.execOrThrow([HIGGS, "client", "down"]);
      expect(await fetchPage(laptop, PAGE6)).toBe("2001:db8:66:1::2");
    },
    START_MS,
  );

  test(
    "with a home that has none, the client refuses IPv6 at once, and nothing of it leaves the café",
    async () => {
      await using lab = await startNetworkLab(smallInternet({ homeIpv6: false }));
      const laptop = lab.host("laptop");
      await startServer(lab);
      await startNode(lab.host("home-pc"), { join: await invite(lab, "node") });
      await serve(lab.host("web"), [PORT]);
      await using sniffer = await lab.host("cafe-router").sniff("lan", `ip6 and host ${WEB6}`);
      expect(await knocks(laptop)).toEqual([`web:${PORT} 2001:db8:66:1::2`, `web:${PORT} 2001:db8:66:1::2`]);
      expect(await fetchPage(laptop, PAGE6)).toBe("2001:db8:66:1::2");
      await until(() => sniffer.packets().length > 0); // positive control

      await connectClient(lab, "laptop");
      expect((await nodeStatus(lab.host("home-pc"))).exit).toMatchObject({ ready: true, ipv6: false });
      expect(await clientStatus(laptop)).toMatchObject({ state: "connected", exit: { ipv6: false } });
      sniffer.clear();
      for (const answer of await knocks(laptop))
        expect(answer).toMatch(/^E(HOSTUNREACH|NETUNREACH|CONNREFUSED|ACCES)$/);
      const failed = await laptop.exec([HIGGS, "lab-service", "fetch", PAGE6]);
      expect(failed.code).not.toBe(0);
      // Bound to the café's card, or to its address, a program gets no further.
      const bound = await laptop.exec([
        "curl",
        "-sS",
        "--connect-timeout",
        "1",
        "--interface",
        "2001:db8:66:1::2",
        PAGE6,
      ]);
      expect(bound.code).not.toBe(0);
      // A page with both families comes by the one that the home has.
      expect(await fetchPage(laptop, `http://${WEB_NAME}/`)).toBe("203.0.113.7");
      expect(sniffer.packets().map((packet) => packet.text)).toEqual([]);
      await laptop.execOrThrow([HIGGS, "client", "down"]);
      expect(await fetchPage(laptop, PAGE6)).toBe("2001:db8:66:1::2");
    },
    START_MS,
  );
});
