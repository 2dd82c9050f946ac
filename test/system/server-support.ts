// A real server on a free port of 127.0.0.1 with TLS, and machines that speak to it with fetch and WebSocket as any would.
import { setDefaultTimeout } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fromBase64Url, toBase64Url } from "../../src/base/bytes.ts";
import type { MachineName } from "../../src/base/hostname.ts";
import type { Cidr, IpAddress } from "../../src/base/ip.ts";
import { silentLogger } from "../../src/base/log.ts";
import type { MachineMessage, ServerMessage, Welcome } from "../../src/proto/control.ts";
import { serverMessageSchema } from "../../src/proto/control.ts";
import { type Invite, parseInvite } from "../../src/proto/invite.ts";
import {
  type IdentityKey,
  type IdentitySecret,
  identityKeyOf,
  type MachineId,
  newIdentity,
  newWireGuardSecret,
  type SpkiHash,
  sign,
  type WireGuardKey,
  wireGuardKeyOf,
} from "../../src/proto/keys.ts";
import { enrolmentMessage, machineProofMessage } from "../../src/proto/proof.ts";
import { type MachineRecord, type SignedRecord, signRecord } from "../../src/proto/record.ts";
import { FrameBuilder } from "../../src/proto/relay-frame.ts";
import type { Role } from "../../src/proto/role.ts";
import { openServerState } from "../../src/server/first-start.ts";
import type { InviteRequest } from "../../src/server/invites.ts";
import type { Limits, ServerOptions } from "../../src/server/options.ts";
import { type HiggsServer, higgsServer } from "../../src/server/server.ts";
import type { UdpRelay } from "../../src/server/udp-relay/service.ts";

/** Several servers start in one test, each a second when it has to wait for a lock; and the machine may be busy. */
setDefaultTimeout(60_000);

/** Nothing is limited, but where a test says so. */
export const NO_LIMITS: Limits = {
  enrol: [{ burst: 1e6, perMs: 1000 }],
  proof: [{ burst: 1e6, perMs: 1000 }],
  auth: [{ burst: 1e6, perMs: 1000 }],
  signatures: [{ burst: 1e6, perMs: 1000 }],
  failures: [{ burst: 1e6, perMs: 1000 }],
  api: [{ burst: 1e6, perMs: 1000 }],
  open: [{ burst: 1e6, perMs: 1000 }],
  upgrade: [{ burst: 1e6, perMs: 1000 }],
  stun: [{ burst: 1e6, perMs: 1000 }],
};

export interface TestServer extends AsyncDisposable {
  readonly server: HiggsServer;
  readonly stateDir: string;
  readonly url: string;
  readonly certPem: string;
  readonly spki: SpkiHash;
  invite(request: InviteRequest): Promise<Invite>;
  /** Never throws for a status. */
  call(method: string, path: string, options?: CallOptions): Promise<Answer>;
}

export interface CallOptions {
  readonly body?: unknown;
  readonly token?: string;
  readonly headers?: Record<string, string>;
}

export interface Answer {
  readonly status: number;
  readonly body: Record<string, unknown>;
  readonly headers: Headers;
}

export async function temporaryDir(): Promise<string> {
  return mkdtemp(join(tmpdir(), "higgs-test-"));
}

export async function startServer(
  options: {
    readonly stateDir?: string;
    readonly server?: Partial<ServerOptions>;
    readonly keepState?: boolean;
    readonly udpRelay?: UdpRelay;
  } = {},
): Promise<TestServer> {
  const stateDir = options.stateDir ?? (await temporaryDir());
  const state = await openServerState({
    stateDir,
    databaseUrl: null,
    tls: { kind: "self", hosts: ["127.0.0.1"] },
    networkRange: null,
    log: silentLogger,
  });
  let server: HiggsServer;
  try {
    server = await higgsServer(
      {
        database: state.database,
        identity: state.identity,
        tls: state.tls,
        udpRelay: options.udpRelay ?? null,
        log: silentLogger,
      },
      {
        listen: { host: "127.0.0.1", port: 0 },
        publicNames: [{ host: "127.0.0.1", port: 0 }],
        stunPort: null,
        limits: NO_LIMITS,
        version: "0.0.0-test",
        ...options.server,
      },
    );
  } catch (thrown) {
    await state.database[Symbol.asyncDispose]();
    throw thrown;
  }
  const url = `https://127.0.0.1:${server.port}`;
  const tls = { ca: state.tls.certPem, checkServerIdentity: () => undefined };
  return {
    server,
    stateDir,
    url,
    certPem: state.tls.certPem,
    spki: state.tls.spki,
    async invite(request) {
      return parseInvite((await server.invite(request)).text);
    },
    async call(method, path, call = {}) {
      const response = await fetch(`${url}/api/v1${path}`, {
        method,
        headers: {
          ...(call.body === undefined ? {} : { "content-type": "application/json" }),
          ...(call.token === undefined ? {} : { authorization: `Bearer ${call.token}` }),
          ...call.headers,
        },
        ...(call.body === undefined
          ? {}
          : { body: typeof call.body === "string" ? call.body : JSON.stringify(call.body) }),
        tls,
      });
      const text = await response.text();
      return {
        status: response.status,
        body: text === "" ? {} : (JSON.parse(text) as Record<string, unknown>),
        headers: response.headers,
      };
    },
    async [Symbol.asyncDispose]() {
      await server[Symbol.asyncDispose]();
      await state.database[Symbol.asyncDispose]();
      if (options.keepState !== true) await rm(stateDir, { recursive: true, force: true });
    },
  };
}

export interface TestMachine {
  readonly id: MachineId;
  readonly name: MachineName;
  readonly role: Role;
  readonly ipv4: IpAddress;
  readonly ipv6: IpAddress;
  readonly network: IdentityKey;
  readonly identity: IdentitySecret;
  readonly wireGuard: WireGuardKey;
}

export interface Newcomer {
  readonly identity: IdentitySecret;
  readonly wireGuard: WireGuardKey;
}

export function newcomer(): Newcomer {
  return { identity: newIdentity(), wireGuard: wireGuardKeyOf(newWireGuardSecret()) };
}

export interface RegisterChoice {
  readonly role?: Role;
  readonly name?: string;
  readonly nameIsChosen?: boolean;
  readonly spki?: SpkiHash;
}

export function registerBody(
  test: TestServer,
  invite: Invite,
  who: Newcomer,
  choice: RegisterChoice = {},
): Record<string, unknown> {
  const identity = identityKeyOf(who.identity);
  const message = enrolmentMessage({
    network: invite.network,
    spki: choice.spki ?? test.spki,
    inviteId: invite.id,
    role: choice.role ?? invite.role,
    identity,
    wireGuard: who.wireGuard,
  });
  return {
    inviteId: invite.id,
    secret: toBase64Url(invite.secret),
    name: choice.name ?? "machine",
    nameIsChosen: choice.nameIsChosen ?? false,
    identity,
    wireGuard: who.wireGuard,
    signature: sign("higgs enrolment v1", message, who.identity),
    version: "0.0.0-test",
    platform: "test",
  };
}

export function register(
  test: TestServer,
  invite: Invite,
  who: Newcomer,
  choice: RegisterChoice = {},
): Promise<Answer> {
  const role = choice.role ?? invite.role;
  return test.call("POST", `/${role}s/register`, { body: registerBody(test, invite, who, choice) });
}

/** Makes an invite and uses it. */
export async function enrolMachine(test: TestServer, role: Role, name: string): Promise<TestMachine> {
  const invite = await test.invite({ role, name });
  const who = newcomer();
  const answer = await register(test, invite, who);
  if (answer.status !== 200) throw new Error(`enrolment failed: ${JSON.stringify(answer.body)}`);
  return { ...(answer.body as unknown as Omit<TestMachine, keyof Newcomer>), ...who };
}

export interface ProofChoice {
  readonly machine?: MachineId;
  readonly spki?: SpkiHash;
  readonly identity?: IdentitySecret;
  readonly network?: IdentityKey;
}

export async function proofBody(
  test: TestServer,
  machine: TestMachine,
  choice: ProofChoice = {},
): Promise<Record<string, unknown>> {
  const { body } = await test.call("POST", "/auth/challenge", { body: { machine: machine.id } });
  const id = choice.machine ?? machine.id;
  const message = machineProofMessage({
    challenge: fromBase64Url(String(body.challenge)) ?? new Uint8Array(32),
    bootId: fromBase64Url(String(body.bootId)) ?? new Uint8Array(16),
    machine: id,
    network: choice.network ?? machine.network,
    spki: choice.spki ?? test.spki,
  });
  return {
    machine: id,
    challenge: body.challenge,
    signature: sign("higgs machine proof v1", message, choice.identity ?? machine.identity),
  };
}

export async function tokenOf(test: TestServer, machine: TestMachine): Promise<string> {
  const answer = await test.call("POST", "/auth/token", { body: await proofBody(test, machine) });
  if (answer.status !== 200) throw new Error(`no token: ${JSON.stringify(answer.body)}`);
  return String(answer.body.token);
}

export function recordOf(machine: TestMachine, serial: bigint, change: Partial<MachineRecord> = {}): SignedRecord {
  return signRecord(
    {
      network: machine.network,
      identity: identityKeyOf(machine.identity),
      wireGuard: machine.wireGuard,
      role: machine.role,
      serial,
      notAfter: 0n,
      name: machine.name,
      addresses: [machine.ipv4, machine.ipv6],
      routes: machine.role === "node" ? (["0.0.0.0/0", "::/0"] as Cidr[]) : [],
      extensions: [],
      ...change,
    },
    machine.identity,
  );
}

/** The code of the error that a promise fails with, or "done". */
export async function codeOf(task: Promise<unknown>): Promise<string> {
  try {
    await task;
    return "done";
  } catch (thrown) {
    return thrown instanceof Error && "code" in thrown ? String(thrown.code) : String(thrown);
  }
}

/** A condition that something else makes true, looked at whenever something happened. */
export async function until<T>(
  look: () => T | undefined | null | false,
  what = "the condition",
  timeoutMs = 30_000,
): Promise<T> {
  const end = performance.now() + timeoutMs;
  for (;;) {
    const found = look();
    if (found !== undefined && found !== null && found !== false) return found;
    if (performance.now() > end) throw new Error(`waited in vain for ${what}`);
    await Bun.sleep(2);
  }
}

export interface TestSocket {
  readonly ws: WebSocket;
  /** Null while open. */
  readonly closed: () => { readonly code: number; readonly reason: string } | null;
}

function open(test: TestServer, path: string, token: string | null): Promise<TestSocket> {
  const ws = new WebSocket(`${test.url.replace("https", "wss")}/api/v1${path}`, {
    headers: token === null ? {} : { authorization: `Bearer ${token}` },
    tls: { ca: test.certPem, checkServerIdentity: () => undefined },
  });
  ws.binaryType = "arraybuffer";
  let closed: { code: number; reason: string } | null = null;
  return new Promise((resolve, reject) => {
    ws.addEventListener("open", () => resolve({ ws, closed: () => closed }));
    ws.addEventListener("close", (event) => {
      closed = { code: event.code, reason: event.reason };
      reject(new Error(`closed with ${event.code} before it was open`));
    });
  });
}

export interface TestControl extends TestSocket {
  readonly messages: ServerMessage[];
  welcome(): Promise<Welcome>;
  send(message: MachineMessage): void;
  next<T extends ServerMessage["type"]>(type: T, from?: number): Promise<Extract<ServerMessage, { type: T }>>;
}

export async function openControl(test: TestServer, machine: TestMachine, token?: string): Promise<TestControl> {
  const socket = await open(test, "/control", token ?? (await tokenOf(test, machine)));
  const messages: ServerMessage[] = [];
  socket.ws.addEventListener("message", (event) =>
    messages.push(serverMessageSchema.parse(JSON.parse(String(event.data)))),
  );
  const next = <T extends ServerMessage["type"]>(type: T, from = 0) =>
    until(
      () =>
        messages.slice(from).find((message): message is Extract<ServerMessage, { type: T }> => message.type === type),
      `a message of type ${type}`,
    );
  return {
    ...socket,
    messages,
    next,
    welcome: () => next("welcome"),
    send: (message) => socket.ws.send(JSON.stringify(message)),
  };
}

export interface TestRelay extends TestSocket {
  readonly frames: Uint8Array[];
}

export async function openRelay(test: TestServer, machine: TestMachine, token?: string): Promise<TestRelay> {
  const socket = await open(test, "/relay", token ?? (await tokenOf(test, machine)));
  const frames: Uint8Array[] = [];
  socket.ws.addEventListener("message", (event) => frames.push(new Uint8Array(event.data as ArrayBuffer)));
  return { ...socket, frames };
}

/** The machine is connected and has introduced itself. */
export async function introduce(test: TestServer, machine: TestMachine, serial = 1n): Promise<TestControl> {
  const control = await openControl(test, machine);
  await control.welcome();
  control.send({ type: "record", record: recordOf(machine, serial) });
  return control;
}

/** One frame with transport data packets of these sizes. */
export function frameOf(session: number, sizes: readonly number[] = [100]): Uint8Array<ArrayBuffer> {
  const builder = new FrameBuilder();
  for (const size of sizes) {
    const packet = new Uint8Array(size).fill(7);
    packet.set([4, 0, 0, 0]);
    builder.add(packet);
  }
  return new Uint8Array(builder.take(session));
}
