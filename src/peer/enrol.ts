// Joining a network with an invite: keys first, the server's proof next, the one-time secret last.
import { toBase64Url } from "../base/bytes.ts";
import { HiggsError } from "../base/errors.ts";
import { isMachineName, machineNameFrom } from "../base/hostname.ts";
import { type Cidr, cidrContains, cidrsOverlap, formatHostPort, type HostPort, parseHostPort } from "../base/ip.ts";
import type { ConnectedPrefix } from "../net/links.ts";
import { type RegisterResponse, registerResponseSchema } from "../proto/api.ts";
import { DEFAULT_PORT, type Invite } from "../proto/invite.ts";
import { sign } from "../proto/keys.ts";
import { isNetworkRange } from "../proto/network-range.ts";
import { enrolmentMessage } from "../proto/proof.ts";
import type { Role } from "../proto/role.ts";
import { type Enrolment, enrolmentSchema, type KnownServer } from "./enrolment.ts";
import { machineKeys } from "./identity.ts";
import type { ProxyUse } from "./proxy-use.ts";
import { type Door, openDoor, ServerUntrusted } from "./server-door.ts";
import type { StateDir } from "./state-dir.ts";

export class JoinError extends HiggsError {
  override readonly name = "JoinError";
}

export interface JoinOptions {
  readonly role: Role;
  /** What the person typed after `--name`; null for the host's own name. */
  readonly name: string | null;
  readonly hostname: string;
  readonly version: string;
  readonly platform: string;
  readonly proxy?: ProxyUse | null;
  /** What this machine already has a way to; the network's ranges must leave it alone. */
  readonly prefixes: (signal: AbortSignal) => Promise<readonly ConnectedPrefix[]>;
}

/**
 * Enrols the machine, and is safe to repeat: after a lost answer the same machine gets the same place again.
 * Throws JoinError `wrong-role` | `already-joined` | `bad-name` | `range-clash`, what openDoor throws, or the server's refusal.
 */
export async function join(
  dir: StateDir,
  invite: Invite,
  options: JoinOptions,
  signal: AbortSignal,
): Promise<Enrolment> {
  if (invite.role !== options.role) {
    throw new JoinError(`Cannot join as a ${options.role}: this invite is for a ${invite.role}.`, {
      code: "wrong-role",
      remedy: `higgs ${invite.role} join …, or a new invite: higgs server invite ${options.role}`,
    });
  }
  if (options.name !== null && !isMachineName(options.name)) {
    throw new JoinError(
      `Cannot use the name "${options.name}": a name has letters a-z, digits and hyphens, at most 63.`,
      {
        code: "bad-name",
        remedy: `--name ${machineNameFrom(options.name)}`,
      },
    );
  }
  const present = await dir.readJson("enrolment.json", enrolmentSchema);
  if (present !== null) {
    if (present.network === invite.network) return present;
    throw new JoinError(`Cannot join: this machine is already "${present.name}" in another network.`, {
      code: "already-joined",
      remedy: `higgs ${options.role} leave`,
    });
  }
  const keys = await machineKeys(dir);
  const door = await firstDoor(invite, options.proxy ?? null, signal);
  const signature = sign(
    "higgs enrolment v1",
    enrolmentMessage({
      network: invite.network,
      spki: door.pin.spki,
      inviteId: invite.id,
      role: options.role,
      identity: keys.identityKey,
      wireGuard: keys.wireGuardKey,
    }),
    keys.identity,
  );
  const answer = await door.request("POST", options.role === "node" ? "/nodes/register" : "/clients/register", {
    body: {
      inviteId: invite.id,
      secret: toBase64Url(invite.secret),
      name: options.name ?? machineNameFrom(options.hostname),
      nameIsChosen: options.name !== null,
      identity: keys.identityKey,
      wireGuard: keys.wireGuardKey,
      signature,
      version: options.version,
      platform: options.platform,
    },
    response: registerResponseSchema,
    signal,
  });
  if (answer.network !== invite.network || answer.role !== options.role) {
    throw new ServerUntrusted("Cannot use the server's answer: it names another network or role than the invite.", {
      code: "server-not-proven",
    });
  }
  checkRanges(answer, await options.prefixes(signal));
  const enrolment: Enrolment = {
    version: 1,
    network: answer.network,
    id: answer.id,
    name: answer.name,
    role: answer.role,
    tags: answer.tags,
    ipv4: answer.ipv4,
    ipv6: answer.ipv6,
    range4: answer.range4,
    range6: answer.range6,
    servers: knownServers([...invite.servers.map(formatHostPort), ...door.names, ...answer.servers], [], door),
    position: { epoch: 0, seq: 0 },
  };
  await dir.writeJson("enrolment.json", enrolment);
  return enrolment;
}

/** Offered when a range clashes: the first that is free here. */
const OTHER_RANGES = ["10.99.0.0/16", "172.29.0.0/16", "192.168.211.0/24"] as unknown as readonly Cidr[];

/** The ranges become routes and firewall rules: a server may name neither the internet's addresses nor those of this machine's own networks. */
function checkRanges(answer: RegisterResponse, prefixes: readonly ConnectedPrefix[]): void {
  const { ipv4, ipv6, range4, range6 } = answer;
  const isFit =
    !range4.includes(":") &&
    range6.includes(":") &&
    isNetworkRange(range4) &&
    isNetworkRange(range6) &&
    cidrContains(range4, ipv4) &&
    cidrContains(range6, ipv6);
  if (!isFit) {
    throw new ServerUntrusted(
      `Cannot use the server's answer: ${range4} and ${range6} with ${ipv4} and ${ipv6} are no private network.`,
      {
        code: "server-not-proven",
        remedy: "The server's --network-range must be private: a /16 to /24, such as 10.99.0.0/16.",
      },
    );
  }
  for (const range of [range4, range6]) {
    const clash = prefixes.find(({ prefix }) => cidrsOverlap(prefix, range));
    if (clash === undefined) continue;
    const free = OTHER_RANGES.find((other) => !prefixes.some(({ prefix }) => cidrsOverlap(prefix, other)));
    throw new JoinError(
      `Cannot join: the network's range ${range} overlaps ${clash.prefix}, which this machine reaches by ${clash.interface}.`,
      {
        code: "range-clash",
        remedy: `Set the network up with another range: higgs server --network-range ${free ?? "CIDR"}, with an empty --state.`,
        detail: { range, prefix: clash.prefix, interface: clash.interface },
      },
    );
  }
}

async function firstDoor(invite: Invite, use: ProxyUse | null, signal: AbortSignal): Promise<Door> {
  let failure: unknown;
  for (const server of invite.servers) {
    try {
      const proxy = use?.for(server) ?? null;
      const door = await openDoor(server, invite.network, { addresses: [], pin: null, proxy }, signal);
      if (proxy !== null) await use?.keep(door.proxyAddresses);
      return door;
    } catch (thrown) {
      signal.throwIfAborted();
      failure ??= thrown;
    }
  }
  throw failure;
}

/** The list of servers to keep: names in order, without repeats, with what is known of each; the door's own is fresh. */
export function knownServers(names: readonly string[], before: readonly KnownServer[], door: Door): KnownServer[] {
  const doorName = formatHostPort(door.server);
  return [...new Set([doorName, ...names])]
    .filter((name) => parseHostPort(name, DEFAULT_PORT) !== null)
    .slice(0, 16)
    .map((name) => {
      if (name === doorName) return { name, addresses: [...door.addresses], pin: door.pin };
      return before.find((server) => server.name === name) ?? { name, addresses: [], pin: null };
    });
}

/** The servers of an enrolment that can be dialled. */
export function dialList(
  servers: readonly KnownServer[],
): { readonly known: KnownServer; readonly target: HostPort }[] {
  return servers.flatMap((known) => {
    const target = parseHostPort(known.name, DEFAULT_PORT);
    return target === null ? [] : [{ known, target }];
  });
}
