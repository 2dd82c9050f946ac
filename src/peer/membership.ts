// A machine's membership in its network: control stream, map, sessions and relay as one service, with a poke when anything changed.
import { HiggsError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { type Endpoint, type IpAddress, parseHostPort, parseIp } from "../base/ip.ts";
import type { Service } from "../base/service.ts";
import { SerialQueue } from "../base/async.ts";
import type { ExitState, MachineMessage, ServerMessage, Session, Welcome } from "../proto/control.ts";
import type { MachineId } from "../proto/keys.ts";
import { type ControlStream, controlStream } from "./control-stream.ts";
import { knownServers } from "./enrol.ts";
import type { EnrolmentStore } from "./enrolment.ts";
import type { MachineKeys } from "./identity.ts";
import { Netmap } from "./netmap.ts";
import { type Offer, ownRecord } from "./own-record.ts";
import type { Doubt } from "./reconnect.ts";
import { type RelayLink, relayLink } from "./relay-link.ts";
import type { ProxyUse } from "./proxy-use.ts";
import type { StunServers } from "./stun-client.ts";
import type { Door } from "./server-door.ts";
import { ServerLink, type ServerSession } from "./server-link.ts";
import type { StateDir } from "./state-dir.ts";
import type { TrustContext } from "./trust.ts";
import type { TrustStore } from "./trust-store.ts";

export interface Membership extends Service {
  readonly map: Netmap;
  readonly control: ControlStream;
  readonly relay: RelayLink;
  /** By the peer's id. Sessions end with the server that granted them. */
  readonly sessions: ReadonlyMap<MachineId, Session>;
  /** Why the server is not reachable now, or null. */
  readonly trouble: HiggsError | null;
  /** True once a whole map was taken, also while the server is away since. */
  readonly welcomed: boolean;
  readonly observedAddress: IpAddress | null;
  /** A session with the peer: the one that is there, or a new one. Throws ControlError with the server's code, or `offline`. */
  connect(peer: MachineId): Promise<Session>;
  /** Tells the server something about paths; false while it cannot be reached. */
  send(message: MachineMessage): boolean;
  /** Where and as whom to ask how the world sees us; null before the first welcome, or from a server without STUN. */
  readonly stun: StunServers | null;
  /** The HTTP proxy through which the server is reached, as people name it; null without one. */
  readonly proxy: string | null;
  /** The exact destinations that must stay outside the tunnel. */
  carriers(): Endpoint[];
  /** Looks whether the connections to the server live, or dials anew, as there is reason to. */
  probe(why: Doubt): void;
  /** Said again after every reconnect. */
  presence(exit: ExitState | null): void;
  /** What this machine offers from now on: its record is signed anew, and told. */
  reoffer(next: Offer): void;
  /** Judges the map anew. */
  rejudge(): Promise<void>;
}

/** What the server passes on about paths. */
export type PathMessage = Extract<ServerMessage, { type: "candidates" | "punch" }>;

const DEFAULT_RELAY = "/api/v1/relay";

export function joinNetwork(
  deps: {
    readonly dir: StateDir;
    readonly store: EnrolmentStore;
    readonly keys: MachineKeys;
    readonly trust: TrustStore;
    readonly proxy?: ProxyUse | null;
    readonly log: Logger;
  },
  options: {
    readonly offer: Offer;
    /** This program's, for whoever looks after the network. */
    readonly version: string;
    readonly onChange: () => void;
    /** What the server passes on about paths; none for a machine that stays on the relay. */
    readonly onPath?: (message: PathMessage) => void;
    /** The server has sent its map, at first and after every reconnect; sessions are those that it granted. */
    readonly onWelcome?: () => void;
  },
): Membership {
  const { store, keys, log } = deps;
  const map = new Netmap({ trust: deps.trust, log }, store.value.position);
  const link = new ServerLink({ store, keys, proxy: deps.proxy ?? null, log });
  const sessions = new Map<MachineId, Session>();
  const queue = new SerialQueue();
  let relayPath = DEFAULT_RELAY;
  let trouble: HiggsError | null = null;
  let welcomed = false;
  let observedAddress: IpAddress | null = null;
  let stun: StunServers | null = null;
  let { offer } = options;
  let exit: ExitState | null = null;
  let serverSerial = 0n;

  const context = (): TrustContext => {
    const { network, range4, range6, name, ipv4, ipv6 } = store.value;
    const self = { identity: keys.identityKey, wireGuard: keys.wireGuardKey, name, addresses: [ipv4, ipv6] };
    return { network, range4, range6, self, now: BigInt(Math.floor(Date.now() / 1000)) };
  };

  function task(work: () => Promise<void>): void {
    queue
      .run(work)
      .catch((thrown: unknown) => {
        trouble =
          thrown instanceof HiggsError
            ? thrown
            : new MembershipError(String(thrown), { code: "failed", cause: thrown });
        log.warn({ code: trouble.code }, trouble.message);
      })
      .finally(options.onChange);
  }

  async function publish(): Promise<void> {
    const { record, signed } = await ownRecord(deps.dir, { enrolment: store.value, keys, offer, serverSerial });
    if (record.serial > serverSerial && control.send({ type: "record", record: signed })) serverSerial = record.serial;
  }

  async function takeWelcome(welcome: Welcome, session: ServerSession): Promise<void> {
    await map.welcome(welcome, context());
    sessions.clear();
    for (const granted of welcome.sessions) sessions.set(granted.peer, granted);
    stun = stunOf(welcome, session.door);
    relayPath = welcome.relays.find((path) => path.startsWith("/")) ?? DEFAULT_RELAY;
    observedAddress = welcome.observedAddress;
    serverSerial = BigInt(welcome.recordSerial);
    const names = [...store.value.servers.map((server) => server.name), ...welcome.servers];
    await store.update({
      name: welcome.self.name,
      tags: welcome.self.tags,
      position: map.position,
      servers: knownServers(names, store.value.servers, session.door),
    });
    trouble = null;
    welcomed = true;
    control.send({ type: "presence", exit });
    await publish();
    log.info({ peers: map.peers().length, sessions: sessions.size }, "connected to the server");
    options.onWelcome?.();
  }

  async function takeMessage(
    message: Exclude<ServerMessage, { type: "welcome" | "connected" | "refused" }>,
  ): Promise<void> {
    switch (message.type) {
      case "delta":
        await map.delta(message, context());
        return;
      case "candidates":
      case "punch":
        options.onPath?.(message);
        return;
      case "session":
        sessions.set(message.session.peer, message.session);
        return;
      case "session-end":
        for (const [peer, session] of sessions) if (session.id === message.id) sessions.delete(peer);
    }
  }

  const control = controlStream(
    { link, version: options.version, isUrgent: () => relay.isUrgent, log },
    {
      onWelcome: (welcome, session) =>
        task(async () => {
          try {
            await takeWelcome(welcome, session);
          } catch (thrown) {
            // Without a map there is nothing to be online for.
            if (thrown instanceof HiggsError) control.restart(thrown);
            throw thrown;
          }
        }),
      onMessage: (message) => task(() => takeMessage(message)),
      onRefused(error) {
        trouble = error;
        log.warn({ code: error.code }, error.message);
        options.onChange();
      },
      onDown(error) {
        relay.probe("silence"); // as below
        if (trouble?.code !== error.code) log.warn({ code: error.code }, error.message);
        trouble = error;
        options.onChange();
      },
    },
  );
  const relay = relayLink(
    { link, log },
    {
      path: () => relayPath,
      onChange(online) {
        // What ended the one may have ended the other, and the news of that may have got lost.
        if (!online) control.probe("silence");
        options.onChange();
      },
    },
  );

  return {
    map,
    control,
    relay,
    sessions,
    get trouble() {
      return trouble;
    },
    get welcomed() {
      return welcomed;
    },
    get observedAddress() {
      return observedAddress;
    },
    get stun() {
      return stun;
    },
    async connect(peer) {
      const session = sessions.get(peer) ?? (await control.connect(peer));
      sessions.set(peer, session);
      return session;
    },
    send: (message) => control.send(message),
    get proxy() {
      return link.proxy;
    },
    carriers: () => link.carriers(),
    probe(why) {
      control.probe(why);
      relay.probe(why);
    },
    presence(next) {
      const changed = JSON.stringify(next) !== JSON.stringify(exit);
      exit = next;
      if (changed) control.send({ type: "presence", exit });
    },
    reoffer(next) {
      offer = next;
      if (welcomed) task(publish);
    },
    rejudge: () => queue.run(() => map.again(context())),
    async [Symbol.asyncDispose]() {
      await Promise.all([control[Symbol.asyncDispose](), relay[Symbol.asyncDispose]()]);
      await queue.idle();
    },
  };
}

/** STUN servers by address: those whose host is the server that we talk to are found at the address that answered. */
function stunOf(welcome: Welcome, door: Door): StunServers | null {
  if (welcome.stunCredential === undefined) return null;
  const servers = welcome.stun.flatMap((text) => {
    const target = parseHostPort(text, 0);
    const address = target === null ? null : parseIp(target.host);
    if (target === null) return [];
    if (address !== null) return [{ address, port: target.port }];
    return target.host === door.server.host ? door.addresses.map((one) => ({ address: one, port: target.port })) : [];
  });
  return { credential: welcome.stunCredential, servers };
}

class MembershipError extends HiggsError {
  override readonly name = "MembershipError";
}
