// Whether a server's kernel may relay: found out with a packet of its own, and everything put back to the last byte.
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import { RELAY_TABLE } from "../../src/net/relay-table.ts";
import { snapshot } from "./harness.ts";
import { type Actor, type RelayLab, startRelayLab } from "./relay-actor.ts";

const MINUTE = 60_000;
const ADDRESSES = "10.0.0.4,2001:db8::4";
/** The actor and its journal are the test's own. */
const WITHOUT = { without: ["processes", "etc and run"] };

let relayLab: RelayLab;
let host: LabHost;
let system: Actor;

beforeAll(async () => {
  relayLab = await startRelayLab();
  host = relayLab.lab.host("stranger"); // which forwards nothing
  system = await relayLab.actor("stranger", "system", ADDRESSES);
}, MINUTE);

afterAll(async () => {
  await relayLab?.[Symbol.asyncDispose]();
});

afterEach(async () => {
  await system.ask({ do: "reset" });
  await host.exec(["nft", "flush", "ruleset"]);
});

const refusal = async () => ((await system.ask({ do: "prepare" })) as { reason: string }).reason;
const forwards = async () => (await host.readFile("/proc/sys/net/ipv4/ip_forward")).trim();

/** A table of somebody else's. */
async function foreign(rules: string, policy = "accept"): Promise<void> {
  await host.execOrThrow(["nft", "-f", "-"], {
    stdin: `table inet theirs {\n chain forward {\n type filter hook forward priority 0\n policy ${policy}\n ${rules}\n }\n}\n`,
  });
}

test(
  "prepareKernelRelay() switches IPv4 forwarding on behind a fence, and all is put back",
  async () => {
    const before = await snapshot(host, WITHOUT);
    expect(await forwards()).toBe("0");
    expect(await system.ask({ do: "prepare" })).toEqual({ families: [4] });
    expect(await forwards()).toBe("1");
    const table = await host.execOrThrow(["nft", "list", "table", "ip", RELAY_TABLE]);
    expect(table).toContain("chain fence");
    expect(await host.execOrThrow(["ip", "link", "show"])).not.toContain("higgsr");
    expect(await system.ask({ do: "reset" })).toHaveLength(2);
    expect(await snapshot(host, WITHOUT)).toBe(before);
    expect(await system.ask({ do: "reset" })).toEqual([]);
  },
  MINUTE,
);

test(
  "prepareKernelRelay() lets a machine that forwards anyway forward what it likes, in both families",
  async () => {
    for (const key of ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"]) {
      await host.execOrThrow(["sysctl", "-qw", `${key}=1`]);
    }
    expect(await system.ask({ do: "prepare" })).toEqual({ families: [4, 6] });
    expect(await host.execOrThrow(["nft", "list", "table", "ip", RELAY_TABLE])).not.toContain("chain fence");
    await system.ask({ do: "reset" });
    expect(await forwards()).toBe("1");
    for (const key of ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"]) {
      await host.execOrThrow(["sysctl", "-qw", `${key}=0`]);
    }
  },
  MINUTE,
);

test(
  "prepareKernelRelay() refuses where another table drops what is forwarded, by policy or by a rule that only a packet finds",
  async () => {
    await foreign("ip daddr 192.0.2.0/24 drop");
    const before = await snapshot(host, WITHOUT);
    expect(await system.ask({ do: "prepare" })).toEqual({ families: [4] }); // a rule that is not about us
    await system.ask({ do: "reset" });
    expect(await snapshot(host, WITHOUT)).toBe(before);

    await host.execOrThrow(["nft", "add", "rule", "inet", "theirs", "forward", "meta", "l4proto", "udp", "drop"]);
    const dropping = await snapshot(host, WITHOUT);
    expect(await refusal()).toContain("drops what it forwards");
    expect(await snapshot(host, WITHOUT)).toBe(dropping);

    await host.execOrThrow(["nft", "flush", "ruleset"]);
    await foreign("accept", "drop");
    expect(await refusal()).toContain("theirs");
    expect(await forwards()).toBe("0");
  },
  MINUTE,
);
