// What `higgs doctor` makes of this machine: each fact with its consequence and its remedy. Pure.
import { type Cidr, cidrsOverlap } from "../base/ip.ts";
import type { Neighbour } from "../net/neighbours.ts";
import type { Platform } from "../net/platform.ts";
import type { PrivilegeFacts } from "../net/privileges.ts";
import { ruleSentence, switchOff } from "../net/routes/rules-before.ts";
import type { AnyRole } from "./config.ts";
import { type HealthEntry, platformHealth } from "./health.ts";

export const DOCTOR_AREAS = [
  "tools",
  "privileges",
  "wireguard",
  "firewall",
  "addresses",
  "leftovers",
  "reachability",
] as const;
export type DoctorArea = (typeof DOCTOR_AREAS)[number];

export interface DoctorFinding extends HealthEntry {
  readonly area: DoctorArea;
}

export interface RoleFacts {
  readonly role: AnyRole;
  readonly isRunning: boolean;
  /** Of the network that a node or client has joined; none for one that has not, and for a server. */
  readonly ranges: readonly Cidr[];
  /** What is on this machine by the role's fixed names, in words; null where it could not be looked for. */
  readonly left: readonly string[] | null;
  /** Each server that it knows; `trouble` null: it answered, and the network's identity vouched for it. */
  readonly servers: readonly {
    readonly name: string;
    readonly trouble: Pick<HealthEntry, "code" | "text" | "remedy"> | null;
  }[];
  /** What the running role says of itself. */
  readonly health: readonly HealthEntry[];
}

export interface DoctorFacts {
  readonly platform: Platform | null;
  readonly missingTools: readonly { readonly tool: string; readonly remedy: string }[];
  /** True where iptables can close what nft would. */
  readonly hasIptables: boolean;
  readonly privileges: PrivilegeFacts;
  readonly isRoot: boolean;
  /** Which WireGuard could be used, best first. */
  readonly wireGuard: readonly ("kernel" | "carried" | "path")[];
  /** Null where firewalls could not be read. */
  readonly neighbours: readonly Neighbour[] | null;
  readonly forwardDrops: readonly string[];
  readonly prefixes: readonly { readonly interface: string; readonly prefix: Cidr }[];
  readonly roles: readonly RoleFacts[];
}

/** In the order of the areas, the worst of each first. */
export function doctorFindings(facts: DoctorFacts): readonly DoctorFinding[] {
  const found: Readonly<Record<DoctorArea, readonly HealthEntry[]>> = {
    tools: toolsOf(facts),
    privileges: privilegesOf(facts),
    wireguard: wireGuardOf(facts),
    firewall: firewallOf(facts),
    addresses: addressesOf(facts),
    leftovers: leftoversOf(facts),
    reachability: reachabilityOf(facts),
  };
  return DOCTOR_AREAS.flatMap((area) =>
    found[area]
      .toSorted((a, b) => RANK.indexOf(a.severity) - RANK.indexOf(b.severity))
      .map((finding) => ({ ...finding, area })),
  );
}

function toolsOf({ platform, missingTools, hasIptables }: DoctorFacts): HealthEntry[] {
  const missing = missingTools.map(({ tool, remedy }) => {
    const isReplaced = tool === "nft" && hasIptables;
    const uses = isReplaced ? BY_IPTABLES : USES[tool];
    return {
      code: "tool-missing",
      severity: NEEDED.has(tool) && !isReplaced ? ("high" as const) : ("low" as const),
      text: `The tool "${tool}" is missing: ${uses ?? "a part of higgs needs it"}.`,
      remedy,
    };
  });
  // A person who asks what is in the way hears of this first.
  return [...platformHealth(platform).map((entry) => ({ ...entry, severity: "high" as const })), ...missing];
}

const BY_IPTABLES = "iptables does what it can instead, and higgs itself passes every packet of a direct path on";
const RANK: readonly HealthEntry["severity"][] = ["high", "medium", "low"];
const NEEDED: ReadonlySet<string> = new Set(["ip", "wg", "nft", "pfctl", "route", "netstat", "ifconfig", "scutil"]);
const USES: Readonly<Record<string, string>> = {
  ip: "node and client set addresses and routes with it",
  wg: "node and client set up WireGuard with it",
  nft: "node and client keep out with it whom they must",
  ping: "higgs ping and higgs client wait use it",
  wireguard: "node and client make their tunnel with it",
  conntrack: "a server's relay in the kernel forgets old addresses with it",
};

function privilegesOf({ platform, privileges, isRoot }: DoctorFacts): HealthEntry[] {
  const found: HealthEntry[] = [];
  if (platform === "windows" && !privileges.netAdmin) {
    found.push({
      code: "privilege-missing",
      severity: "medium",
      text: "This process is not elevated: it sees less than a role will, which needs it.",
      remedy: 'In a prompt that was started with "Run as administrator": higgs doctor',
    });
  } else if (!privileges.netAdmin) {
    found.push({
      code: "privilege-missing",
      severity: "medium",
      text: "This process lacks the capability CAP_NET_ADMIN: it sees less than a role will, which needs it.",
      remedy: "sudo higgs doctor",
    });
  } else if (!isRoot) {
    found.push({
      code: "not-root",
      severity: "low",
      text: "This process is not root: files of others may be hidden from it.",
      remedy: "sudo higgs doctor",
    });
  }
  return found;
}

function wireGuardOf({ platform, wireGuard, privileges }: DoctorFacts): HealthEntry[] {
  if (platform === "windows") return []; // it is among the tools
  if (wireGuard.includes("kernel")) return [];
  const tun = "sudo modprobe tun; in a container: --device /dev/net/tun --cap-add NET_ADMIN";
  if (wireGuard.length > 0 && privileges.tunProblem === null) return [];
  // Without the privilege nobody opens it; whether a role may is not seen from here.
  if (wireGuard.length > 0 && privileges.tunProblem === "refused" && !privileges.netAdmin) return [];
  if (wireGuard.length > 0) {
    const why = privileges.tunProblem === "refused" ? "may not be opened" : "is not there";
    return [
      {
        code: "tun-missing",
        severity: "high",
        text: `The kernel has no WireGuard, and /dev/net/tun, by which wireguard-go would take its place, ${why}.`,
        remedy: tun,
      },
    ];
  }
  return [
    {
      code: "wireguard-unavailable",
      severity: "high",
      text: "There is no WireGuard: not in the kernel, not in this executable, and no wireguard-go on PATH.",
      remedy: "sudo apt install --no-install-recommends wireguard-go, or build higgs where Go is at hand",
    },
  ];
}

function firewallOf({ neighbours, forwardDrops, roles }: DoctorFacts): HealthEntry[] {
  if (neighbours === null) {
    return [
      {
        code: "firewall-unread",
        severity: "low",
        text: "The firewall could not be read.",
        remedy: "sudo higgs doctor",
      },
    ];
  }
  const isNode = roles.some(({ role }) => role === "node");
  const isClient = roles.some(({ role }) => role === "client");
  const found: HealthEntry[] = neighbours.flatMap((one) => neighbourOf(one, { isNode, isClient }));
  // A known firewall's own finding says how to open it; this is for one that nobody knows.
  if (isNode && !found.some(({ code }) => code in OPEN_BY)) {
    found.push(
      ...forwardDrops.map((text) => ({
        code: "forward-dropped",
        severity: "high" as const,
        text: `${text} An exit forwards nothing then.`,
        remedy: "Let the firewall that made it accept what comes from and goes to higgsn0.",
      })),
    );
  }
  return found;
}

/** How each firewall lets an exit's clients through; they stay kept from the home by higgs's own table. */
const OPEN_BY: Readonly<Record<string, string>> = {
  ufw: "sudo ufw route allow in on higgsn0 && sudo ufw allow in on higgsn0 to any port 5300",
  firewalld: "sudo firewall-cmd --permanent --zone=trusted --add-interface=higgsn0 && sudo firewall-cmd --reload",
  "legacy-forward-drop":
    "sudo iptables-legacy -I FORWARD -i higgsn0 -j ACCEPT && sudo iptables-legacy -I FORWARD -o higgsn0 -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
  docker:
    "sudo iptables -I DOCKER-USER -i higgsn0 -j ACCEPT && sudo iptables -I DOCKER-USER -o higgsn0 -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
};

function neighbourOf(one: Neighbour, here: { readonly isNode: boolean; readonly isClient: boolean }): HealthEntry[] {
  switch (one.kind) {
    case "ufw":
    case "firewalld":
    case "docker":
    case "legacy-forward-drop": {
      const name = { ufw: "ufw", firewalld: "firewalld", docker: "Docker", "legacy-forward-drop": "The old iptables" }[
        one.kind
      ];
      const what =
        one.kind === "legacy-forward-drop"
          ? `drops what IPv${one.family} forwards`
          : "filters what this machine forwards";
      if (!here.isNode) return [];
      const text = `${name} ${what}: unless it lets the tunnel through, this exit forwards nothing.`;
      return [{ code: one.kind, severity: "medium", text, remedy: OPEN_BY[one.kind] ?? null }];
    }
    case "libvirt":
      return [];
    case "tunnel":
      return here.isClient
        ? [
            {
              code: "other-tunnel",
              severity: "low",
              text: `Another tunnel is up: ${one.interface}. Its own packets go through the exit while the client is connected.`,
              remedy: null,
            },
          ]
        : [];
    case "rule-before-ours": {
      const sentence = ruleSentence(one.rule);
      const end = here.isClient ? "a client does not connect" : here.isNode ? "an exit leads nowhere" : null;
      return [
        {
          code: "rule-before-ours",
          severity: end === null ? "low" : "high",
          text: end === null ? sentence : `${sentence} While it is there, ${end}.`,
          remedy: switchOff(sentence),
        },
      ];
    }
  }
}

function addressesOf({ roles, prefixes }: DoctorFacts): HealthEntry[] {
  return roles.flatMap(({ role, ranges }) =>
    ranges.flatMap((range) =>
      prefixes
        .filter(({ prefix }) => cidrsOverlap(prefix, range))
        .map(({ prefix, interface: name }) => ({
          code: "range-clash",
          severity: "high" as const,
          text: `The network of the ${role} uses ${range}, and this machine reaches ${prefix} by ${name}: one of the two is not reached.`,
          remedy: "Give the other network another range, or set the higgs network up with another --network-range.",
        })),
    ),
  );
}

function leftoversOf({ roles }: DoctorFacts): HealthEntry[] {
  return roles.flatMap(({ role, isRunning, left }) =>
    isRunning || left === null || left.length === 0
      ? []
      : [
          {
            code: "leftovers",
            severity: "medium" as const,
            text: `The ${role} does not run, and left: ${left.join(", ")}.`,
            remedy: `sudo higgs state clean --role ${role}`,
          },
        ],
  );
}

/** A server has a name for each family; one that answers will do. */
function reachabilityOf({ roles }: DoctorFacts): HealthEntry[] {
  return roles.flatMap(({ servers, health }) => {
    const severity = servers.some(({ trouble }) => trouble === null) ? ("low" as const) : ("high" as const);
    const unreached = servers.flatMap(({ name, trouble }) =>
      trouble === null ? [] : [{ ...trouble, severity, text: `${name}: ${trouble.text}` }],
    );
    return [...unreached, ...health];
  });
}
