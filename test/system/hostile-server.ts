// A server that lies: it holds a real network identity, speaks the protocol, and keeps every byte that it is told.
import { toBase64Url } from "../../src/base/bytes.ts";
import type { MachineName } from "../../src/base/hostname.ts";
import { type Cidr, cidrNth } from "../../src/base/ip.ts";
import { API_BASE, type ProofResponse, type RegisterRequest, registerRequestSchema } from "../../src/proto/api.ts";
import {
  type MachineMessage,
  machineMessageSchema,
  type Peer,
  type Position,
  type ServerMessage,
  type Session,
  type Welcome,
} from "../../src/proto/control.ts";
import type { Invite } from "../../src/proto/invite.ts";
import { type IdentitySecret, identityKeyOf, type MachineId, newIdentity, sign } from "../../src/proto/keys.ts";
import { serverProofMessage } from "../../src/proto/proof.ts";
import type { SignedRecord } from "../../src/proto/record.ts";
import { frameSession } from "../../src/proto/relay-frame.ts";
import type { Role } from "../../src/proto/role.ts";
import { makeSelfSigned, spkiOf } from "../../src/server/certificate.ts";

export const RANGE4 = "10.77.0.0/16" as Cidr;
export const RANGE6 = "fd00:77::/48" as Cidr;

interface Member {
  readonly id: MachineId;
  readonly role: Role;
  readonly host: number;
  name: MachineName;
  record: SignedRecord | null;
  control: Bun.ServerWebSocket<SocketData> | null;
  relay: Bun.ServerWebSocket<SocketData> | null;
}

interface SocketData {
  readonly kind: "control" | "relay";
  readonly machine: MachineId;
}

export interface HostileChoice {
  /** What enrolment answers in place of the truth. */
  readonly enrolment?: Readonly<Record<string, string>>;
  readonly identity?: IdentitySecret;
  /** Its answer to `POST /proof`; by default a sound one. */
  readonly prove?: (nonce: string, sound: ProofResponse) => Response | Promise<Response>;
  /** Of the challenge's token. */
  readonly tokenS?: number;
}

export class HostileServer implements AsyncDisposable {
  readonly identity: IdentitySecret;
  readonly certPem: string;
  /** Method, path, headers and body of each request, and each message, as they came. */
  readonly heard: string[] = [];
  readonly messages: { readonly from: MachineId; readonly message: MachineMessage }[] = [];
  /** Sessions whose frames came in, by how many did. */
  readonly frames = new Map<number, number>();
  /** What the next welcomes say instead of what is so. */
  lie: Partial<Welcome> = {};
  at: Position = { epoch: 100, seq: 0 };
  readonly #members = new Map<MachineId, Member>();
  readonly #sessions = new Map<number, readonly [MachineId, MachineId]>();
  readonly #tokens = new Map<string, MachineId>();
  readonly #choice: HostileChoice;
  readonly #server: Bun.Server<SocketData>;

  private constructor(choice: HostileChoice, tls: { readonly certPem: string; readonly keyPem: string }) {
    this.#choice = choice;
    this.identity = choice.identity ?? newIdentity();
    this.certPem = tls.certPem;
    this.#server = Bun.serve<SocketData>({
      hostname: "127.0.0.1",
      port: 0,
      tls: { cert: tls.certPem, key: tls.keyPem },
      fetch: (request, server) => this.#answer(request, server),
      websocket: {
        maxPayloadLength: 64 * 1024 * 1024,
        open: (socket) => this.#opened(socket),
        message: (socket, data) => this.#take(socket, data),
        close: (socket) => {
          const member = this.#members.get(socket.data.machine);
          if (member?.[socket.data.kind] === socket) member[socket.data.kind] = null;
        },
      },
    });
  }

  static async start(choice: HostileChoice = {}): Promise<HostileServer> {
    return new HostileServer(choice, await makeSelfSigned(["127.0.0.1"]));
  }

  get port(): number {
    return this.#server.port ?? 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.stop(true);
  }

  invite(role: Role): Invite {
    return {
      servers: [{ host: "127.0.0.1", port: this.port }],
      network: identityKeyOf(this.identity),
      id: "invite01",
      secret: crypto.getRandomValues(new Uint8Array(32)),
      role,
      name: null,
      tags: [],
    };
  }

  soundProof(nonce: string): ProofResponse {
    const names = [`127.0.0.1:${this.port}`];
    const spki = spkiOf(this.certPem);
    const nonceBytes = Uint8Array.fromBase64(nonce, { alphabet: "base64url" });
    const signature = sign(
      "higgs server proof v1",
      serverProofMessage({ nonce: nonceBytes, spki, names }),
      this.identity,
    );
    return { network: identityKeyOf(this.identity), spki, names, signature };
  }

  member(name: string): Member {
    const found = [...this.#members.values()].find((member) => (member.name as string) === name);
    if (found === undefined) throw new Error(`there is no ${name}`);
    return found;
  }

  /** As an honest server would show the machine. */
  peer(name: string): Peer {
    const { id, record, role, control } = this.member(name);
    if (record === null) throw new Error(`${name} has not introduced itself`);
    const exit = role === "node" ? { ready: true, ipv6: true, missing: [] } : null;
    return { id, tags: [], online: control !== null, exit, publicAddress: null, record };
  }

  next(): Position {
    this.at = { epoch: this.at.epoch, seq: this.at.seq + 1 };
    return this.at;
  }

  say(to: string, message: ServerMessage): void {
    this.raw(to, JSON.stringify(message));
  }

  raw(to: string, data: string | Uint8Array<ArrayBuffer>, kind: "control" | "relay" = "control"): void {
    this.member(to)[kind]?.send(data);
  }

  show(to: string, ...upsert: Peer[]): void {
    this.say(to, { type: "delta", at: this.next(), upsert, remove: [] });
  }

  /** Ends the control connection, so that the machine comes back for a welcome. */
  cut(name: string): void {
    this.member(name).control?.close(1001, "again");
  }

  /** The session of the pair, made and told of when there was none. */
  grant(a: MachineId, b: MachineId): Session {
    let [id] = [...this.#sessions].find(([, ends]) => ends.includes(a) && ends.includes(b)) ?? [0];
    if (id === 0) {
      id = this.#sessions.size + 1;
      this.#sessions.set(id, [a, b]);
    }
    const other: Session = { id, peer: a, kind: "wireguard", initiator: false };
    this.#members.get(b)?.control?.send(JSON.stringify({ type: "session", session: other } satisfies ServerMessage));
    return { id, peer: b, kind: "wireguard", initiator: true };
  }

  async #answer(request: Request, server: Bun.Server<SocketData>): Promise<Response | undefined> {
    const path = new URL(request.url).pathname;
    const body = await request.text();
    this.heard.push(`${request.method} ${request.url}\n${JSON.stringify([...request.headers])}\n${body}`);
    const machine = this.#tokens.get((request.headers.get("authorization") ?? "").replace("Bearer ", ""));
    switch (path) {
      case `${API_BASE}/proof`: {
        const { nonce } = JSON.parse(body) as { nonce: string };
        const sound = this.soundProof(nonce);
        return this.#choice.prove?.(nonce, sound) ?? Response.json(sound);
      }
      case `${API_BASE}/nodes/register`:
        return this.#register(registerRequestSchema.parse(JSON.parse(body)), "node");
      case `${API_BASE}/clients/register`:
        return this.#register(registerRequestSchema.parse(JSON.parse(body)), "client");
      case `${API_BASE}/auth/challenge`:
        return Response.json({ challenge: random(32), bootId: random(16) });
      case `${API_BASE}/auth/token`: {
        const token = random(32);
        this.#tokens.set(token, (JSON.parse(body) as { machine: MachineId }).machine);
        return Response.json({ token, expiresInS: this.#choice.tokenS ?? 900 });
      }
      case `${API_BASE}/control`:
      case `${API_BASE}/relay`: {
        const kind = path.endsWith("control") ? "control" : "relay";
        if (machine !== undefined && server.upgrade(request, { data: { kind, machine } })) return undefined;
        return new Response(null, { status: 401 });
      }
      default:
        return new Response(null, { status: 404 });
    }
  }

  #register(request: RegisterRequest, role: Role): Response {
    const host = this.#members.size + 1;
    const id = crypto.randomUUID() as MachineId;
    this.#members.set(id, { id, role, host, name: request.name, record: null, control: null, relay: null });
    const { name } = request;
    const network = identityKeyOf(this.identity);
    const servers = [`127.0.0.1:${this.port}`];
    return Response.json({
      id,
      name,
      role,
      tags: [],
      network,
      ...addresses(host),
      range4: RANGE4,
      range6: RANGE6,
      servers,
      ...this.#choice.enrolment,
    });
  }

  #opened(socket: Bun.ServerWebSocket<SocketData>): void {
    const member = this.#members.get(socket.data.machine);
    if (member === undefined) return;
    member[socket.data.kind] = socket;
    if (socket.data.kind === "relay") return;
    const { id, name, role, host } = member;
    const others = [...this.#members.values()].filter((other) => other.id !== id && other.record !== null);
    const welcome: Welcome = {
      type: "welcome",
      at: this.next(),
      version: "0.0.0-test",
      self: { id, name, role, tags: [], ...addresses(host) },
      network: identityKeyOf(this.identity),
      range4: RANGE4,
      range6: RANGE6,
      recordSerial: "0",
      observedAddress: null,
      servers: [`127.0.0.1:${this.port}`],
      relays: [`${API_BASE}/relay`],
      stun: [],
      peers: others.map((other) => this.peer(other.name)),
      sessions: [...this.#sessions].flatMap(([session, ends]) => {
        const peer = ends.find((end) => end !== id);
        if (peer === undefined || !ends.includes(id)) return [];
        return [{ id: session, peer, kind: "wireguard" as const, initiator: ends[0] === id }];
      }),
      ...this.lie,
    };
    socket.send(JSON.stringify(welcome));
  }

  #take(socket: Bun.ServerWebSocket<SocketData>, data: string | Buffer): void {
    const from = socket.data.machine;
    if (typeof data !== "string") {
      const session = frameSession(data);
      this.frames.set(session, (this.frames.get(session) ?? 0) + 1);
      const to = this.#sessions.get(session)?.find((end) => end !== from);
      if (to !== undefined) this.#members.get(to)?.relay?.send(data);
      return;
    }
    this.heard.push(data);
    const message = machineMessageSchema.parse(JSON.parse(data));
    this.messages.push({ from, message });
    const member = this.#members.get(from);
    if (message.type === "record" && member !== undefined) {
      member.record = message.record;
      for (const other of this.#members.values()) if (other.id !== from) this.#introduce(other, member);
    }
    if (message.type === "connect") {
      const session = this.grant(from, message.peer);
      socket.send(JSON.stringify({ type: "connected", ref: message.ref, session } satisfies ServerMessage));
    }
  }

  #introduce(to: Member, who: Member): void {
    to.control?.send(
      JSON.stringify({
        type: "delta",
        at: this.next(),
        upsert: [this.peer(who.name)],
        remove: [],
      } satisfies ServerMessage),
    );
  }
}

function addresses(host: number) {
  return { ipv4: cidrNth(RANGE4, host), ipv6: cidrNth(RANGE6, host) };
}

function random(bytes: number): string {
  return toBase64Url(crypto.getRandomValues(new Uint8Array(bytes)));
}
