// An exit beside the firewalls of others: it works, or refuses with the cause and what mends it, and their rules stay theirs.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Lab } from "../../src/lab/lab.ts";
import { HIGGS, HOME4, HOME6, page, startClientLab, startNetwork, untilBrowses } from "./client-lab.ts";
import { until } from "./harness.ts";
import { nodeStatus } from "./network.ts";

const MINUTE = 60_000;
/** As Docker leaves a host: nothing is forwarded but its own, which is masqueraded. */
const DOCKER = [
  "iptables -P FORWARD DROP",
  "iptables -N DOCKER-USER",
  "iptables -A FORWARD -j DOCKER-USER",
  "iptables -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
  "iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
];
/** As an older Docker, or a router's script, leaves it: nft shows nothing of it. */
const LEGACY =
  "iptables-legacy -P FORWARD DROP && iptables-legacy -A INPUT -i lo -j ACCEPT && iptables-legacy -A INPUT -j REJECT";
/** As ufw's rules do it: what is not asked for does not come in, and nothing is forwarded. */
const UFW = `table inet wall {
  chain in {
    type filter hook input priority 0
    policy drop
    iif lo accept
    ct state established,related accept
    meta l4proto { icmp, ipv6-icmp } accept
  }
  chain through {
    type filter hook forward priority 0
    policy drop
    ct state established,related accept
  }
}`;
/** As firewalld's: the policy accepts, and the last rule rejects. */
const FIREWALLD = `table inet wall {
  chain through {
    type filter hook forward priority 10
    policy accept
    ct state established,related accept
    reject with icmpx admin-prohibited
  }
}`;
const MASQUERADE = `table ip theirs {
  chain out {
    type nat hook postrouting priority 100
    oifname "eth0" masquerade
  }
}`;

describe("the exit beside others' firewalls", () => {
  let lab: Lab;
  const pc = () => lab.host("home-pc");
  const others = async () =>
    [await pc().execOrThrow(["nft", "list", "ruleset"]), await pc().execOrThrow(["iptables-legacy", "-S"])]
      .join("")
      .split(/^(?=table )/m)
      .filter((table) => !table.startsWith("table inet higgs"))
      .join("")
      .replaceAll(/counter packets \d+ bytes \d+/g, "counter");
  const remedies = async () =>
    (await nodeStatus(pc())).health.map((entry) => entry as unknown as { code: string; text: string; remedy: string });

  beforeAll(async () => {
    lab = await startClientLab();
    await startNetwork(lab);
    await lab.host("laptop").execOrThrow([HIGGS, "client", "up"], { timeoutMs: 40_000 });
    await untilBrowses(lab.host("laptop"));
  }, MINUTE);
  afterAll(async () => {
    await lab?.[Symbol.asyncDispose]();
  });

  for (const [name, set, undo, named] of [
    [
      "Docker's FORWARD policy",
      DOCKER.join(" && "),
      "iptables -P FORWARD ACCEPT; iptables -F; iptables -X; iptables -t nat -F",
      ['The chain "FORWARD" of the nft table "ip filter" drops what this machine forwards.'],
    ],
    [
      "the old iptables",
      LEGACY,
      "iptables-legacy -P FORWARD ACCEPT; iptables-legacy -F",
      [
        'The chain "FORWARD" of the old iptables (legacy, IPv4) drops what this machine forwards.',
        'The chain "INPUT" of the old iptables (legacy, IPv4) drops what clients ask its resolver.',
      ],
    ],
    [
      "a table like ufw's",
      `nft -f - <<'END'\n${UFW}\nEND`,
      "nft delete table inet wall",
      [
        'The chain "in" of the nft table "inet wall" drops what clients ask its resolver.',
        'The chain "through" of the nft table "inet wall" drops what this machine forwards.',
      ],
    ],
    [
      "a table like firewalld's",
      `nft -f - <<'END'\n${FIREWALLD}\nEND`,
      "nft delete table inet wall",
      ['The chain "through" of the nft table "inet wall" drops what this machine forwards.'],
    ],
  ] as const) {
    test(
      `is refused by name under ${name}, leaves it as it is, and opens with what the remedy says`,
      async () => {
        await pc().execOrThrow(["sh", "-c", set]);
        const before = await others();
        const found = await until(
          async () => {
            const health = await remedies();
            return health.length === named.length ? health : null;
          },
          { timeoutMs: 25_000, what: "the named causes" },
        );
        expect(found.map((entry) => entry.text)).toEqual([...named]);
        expect((await nodeStatus(pc())).exit.ready).toBe(false);
        expect(await others()).toBe(before);
        for (const { remedy } of found) await pc().execOrThrow(["sh", "-c", remedy.replaceAll("sudo ", "")]);
        await until(async () => (await nodeStatus(pc())).exit.ready, { timeoutMs: 25_000, what: "the exit" });
        await untilBrowses(lab.host("laptop"));
        await pc().execOrThrow(["sh", "-c", undo]);
      },
      2 * MINUTE,
    );
  }

  test("works beside a masquerade that is there already, and leaves it alone", async () => {
    await pc().execOrThrow(["nft", "-f", "-"], { stdin: MASQUERADE });
    const before = await others();
    await until(async () => [HOME4, HOME6].includes(await page(lab.host("laptop"))), { what: "the page" });
    expect((await nodeStatus(pc())).exit.ready).toBe(true);
    expect(await others()).toBe(before);
  });
});
