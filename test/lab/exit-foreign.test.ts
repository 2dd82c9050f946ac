// An exit beside the firewalls of others: it works, or refuses with the cause and what mends it, and their rules stay theirs.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { HIGGS, HOME4, HOME6, page, startClientLab, startNetwork, untilBrowses } from "./client-lab.ts";
import { type ExitMechanism, exitMechanisms } from "./exit-mechanism.ts";
import { until } from "./harness.ts";
import { nodeStatus } from "./network.ts";

const MINUTE = 60_000;
const ANSWERS = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";
/** As Docker leaves a host: nothing is forwarded but its own, which is masqueraded. */
const DOCKER: readonly string[] = [
  "-P FORWARD DROP",
  "-N DOCKER-USER",
  "-A FORWARD -j DOCKER-USER",
  `-A FORWARD -o docker0 ${ANSWERS}`,
  "-t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
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

/** In words of iptables, where there is no nft. */
const OLD_UFW: readonly string[] = [
  "-P INPUT DROP",
  "-A INPUT -i lo -j ACCEPT",
  `-A INPUT ${ANSWERS}`,
  "-A INPUT -p icmp -j ACCEPT",
  "-P FORWARD DROP",
  `-A FORWARD ${ANSWERS}`,
];
const OLD_FIREWALLD: readonly string[] = [
  `-A FORWARD ${ANSWERS}`,
  "-A FORWARD -j REJECT --reject-with icmp-host-prohibited",
];

interface Firewalls {
  /** What each is set up by, taken away by, and named as. */
  readonly all: readonly (readonly [name: string, set: string, undo: string, named: readonly string[]])[];
  /** A masquerade that is there already. */
  readonly masquerade: string;
  /** Everything but ours. */
  readonly others: (pc: LabHost) => Promise<string>;
}

function firewallsOf({ name, forwardDrop: { tool, said } }: ExitMechanism): Firewalls {
  const typed = (all: readonly string[]): string => all.map((args) => `${tool} ${args}`).join(" && ");
  const wall = (of: string): string => `nft -f - <<'END'\n${of}\nEND`;
  const gone = `${typed(["-P FORWARD ACCEPT", "-P INPUT ACCEPT", "-F", "-t nat -F"])}; ${tool} -X DOCKER-USER || true`; // our own chains may be back by then
  const through = 'The chain "through" of the nft table "inet wall" drops what this machine forwards.';
  const asked = said.replace("FORWARD", "INPUT").replace(/drops .*/, "drops what clients ask its resolver.");
  const asksWall = 'The chain "in" of the nft table "inet wall" drops what clients ask its resolver.';
  const byDocker = ["Docker's FORWARD policy", typed(DOCKER), gone, [said]] as const;
  if (name !== "nft") {
    return {
      all: [
        byDocker,
        ["rules like ufw's", typed(OLD_UFW), gone, [said, asked]],
        ["rules like firewalld's", typed(OLD_FIREWALLD), gone, [said]],
      ],
      masquerade: typed(["-t nat -A POSTROUTING -o eth0 -j MASQUERADE"]),
      others: async (pc) =>
        (await pc.execOrThrow(["sh", "-c", `${tool}-save; ip6${tool.slice(2)}-save`]))
          .split("\n")
          .filter((line) => !line.startsWith("#") && !line.includes("higgs"))
          .map((line) => line.replace(/ \[\d+:\d+\]$/, ""))
          .join("\n"),
    };
  }
  return {
    all: [
      byDocker,
      [
        "the old iptables",
        LEGACY,
        "iptables-legacy -P FORWARD ACCEPT; iptables-legacy -F",
        [
          'The chain "FORWARD" of the old iptables (legacy, IPv4) drops what this machine forwards.',
          'The chain "INPUT" of the old iptables (legacy, IPv4) drops what clients ask its resolver.',
        ],
      ],
      ["a table like ufw's", wall(UFW), "nft delete table inet wall", [asksWall, through]],
      ["a table like firewalld's", wall(FIREWALLD), "nft delete table inet wall", [through]],
    ],
    masquerade: wall(MASQUERADE),
    others: async (pc) =>
      [await pc.execOrThrow(["nft", "list", "ruleset"]), await pc.execOrThrow(["iptables-legacy", "-S"])]
        .join("")
        .split(/^(?=table )/m)
        .filter((table) => !table.startsWith("table inet higgs"))
        .join("")
        .replaceAll(/counter packets \d+ bytes \d+/g, "counter"),
  };
}

describe.each([...exitMechanisms("nft")])("the exit by $name beside others' firewalls", (mechanism) => {
  const { all, masquerade, others } = firewallsOf(mechanism);
  let lab: Lab;
  const pc = () => lab.host("home-pc");
  const remedies = async () =>
    (await nodeStatus(pc())).health
      .map((entry) => entry as unknown as { code: string; text: string; remedy: string })
      .filter(({ code }) => code === "exit-not-ready");

  beforeAll(async () => {
    lab = await startClientLab();
    await mechanism.prepare(pc());
    await startNetwork(lab);
    await lab.host("laptop").execOrThrow([HIGGS, "client", "up"], { timeoutMs: 40_000 });
    await untilBrowses(lab.host("laptop"));
  }, MINUTE);
  afterAll(async () => {
    await lab?.[Symbol.asyncDispose]();
  });

  for (const [name, set, undo, named] of all) {
    test(
      `is refused by name under ${name}, leaves it as it is, and opens with what the remedy says`,
      async () => {
        await pc().execOrThrow(["sh", "-c", set]);
        const before = await others(pc());
        const found = await until(
          async () => {
            const health = await remedies();
            return health.length === named.length ? health : null;
          },
          { timeoutMs: 25_000, what: "the named causes" },
        );
        expect(found.map((entry) => entry.text)).toEqual([...named]);
        expect((await nodeStatus(pc())).exit.ready).toBe(false);
        expect(await others(pc())).toBe(before);
        for (const { remedy } of found) await pc().execOrThrow(["sh", "-c", remedy.replaceAll("sudo ", "")]);
        await until(async () => (await nodeStatus(pc())).exit.ready, { timeoutMs: 25_000, what: "the exit" });
        await untilBrowses(lab.host("laptop"));
        await pc().execOrThrow(["sh", "-c", undo]);
        // By iptables it took ours away too.
        await until(async () => (await mechanism.leaseLeftS(pc())) > 0, {
          timeoutMs: 25_000,
          what: "the exit's lease",
        });
      },
      2 * MINUTE,
    );
  }

  test("works beside a masquerade that is there already, and leaves it alone", async () => {
    await pc().execOrThrow(["sh", "-c", masquerade]);
    const before = await others(pc());
    await until(async () => [HOME4, HOME6].includes(await page(lab.host("laptop"))), { what: "the page" });
    expect((await nodeStatus(pc())).exit.ready).toBe(true);
    expect(await others(pc())).toBe(before);
  });
});
