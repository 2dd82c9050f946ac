// What the server does so that two machines find a path of their own: keys, candidates, the moment, STUN and the UDP relay.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { parseEndpoint, parseIp } from "../../src/base/ip.ts";
import { silentLogger } from "../../src/base/log.ts";
import type { Candidate } from "../../src/proto/path.ts";
import { bindingRequest, checkIntegrity, decodeStun, encodeStun } from "../../src/proto/stun.ts";
import { udpRelay, type UdpRelay } from "../../src/server/udp-relay/service.ts";
import { keyOf as key, latched, loopbackUdp as udp, probeOf, relayOf } from "./relay-end.ts";
import { enrolMachine, introduce, startServer, type TestControl, type TestServer, until } from "./server-support.ts";

const HERE = parseIp("127.0.0.1") ?? ("" as never);
let server: TestServer;
let relay: UdpRelay;

beforeAll(async () => {
  const places = [{ local: HERE, public: HERE }];
  relay = udpRelay({ kernel: null, log: silentLogger }, { places, ports: { first: 42_000, last: 42_999 } });
  server = await startServer({ server: { stunPort: 0 }, udpRelay: relay });
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await relay[Symbol.asyncDispose]();
});

let count = 0;

/** A node and a client with a session, as each of them was told of it. */
async function pair() {
  count++;
  const [node, client] = await Promise.all([
    enrolMachine(server, "node", `node-${count}`),
    enrolMachine(server, "client", `client-${count}`),
  ]);
  const [a, b] = [await introduce(server, client), await introduce(server, node)];
  a.send({ type: "connect", ref: 1, peer: node.id, kind: "wireguard" });
  const forClient = (await a.next("connected")).session;
  const forNode = (await b.next("session")).session;
  return { client, node, a, b, forClient, forNode, id: forClient.id };
}

const all = (control: TestControl, type: string) => control.messages.filter((message) => message.type === type);

describe("the keys of a session", () => {
  test("are those of the other end the other way round, and nobody else's", async () => {
    const { forClient, forNode } = await pair();
    const [mine, theirs] = [probeOf(forClient), probeOf(forNode)];
    expect(mine.sendKey).toBe(theirs.receiveKey);
    expect(mine.receiveKey).toBe(theirs.sendKey);
    expect(relayOf(forClient).endpoints).toEqual(relayOf(forNode).endpoints);
    const other = probeOf((await pair()).forClient);
    const relays = [relayOf(forClient), relayOf(forNode)].flatMap((one) => [one.sendKey, one.receiveKey]);
    const keys = [mine.sendKey, mine.receiveKey, other.sendKey, other.receiveKey, ...relays];
    expect(new Set(keys).size).toBe(keys.length);
  });

  test("stay the same for as long as the session lives", async () => {
    const { a, node, forClient } = await pair();
    a.send({ type: "connect", ref: 2, peer: node.id, kind: "wireguard" });
    const again = await until(() => all(a, "connected").find((one) => one.type === "connected" && one.ref === 2));
    expect(again).toMatchObject({ session: forClient });
  });
});

describe("candidates", () => {
  const reflexive: Candidate = { kind: "reflexive", endpoint: "198.51.100.7:51820" };

  test("reach the other end without those at which nothing of another machine can be, and once each", async () => {
    const { a, b, id } = await pair();
    const nowhere = ["127.0.0.1:1", "0.0.0.0:1", "169.254.1.1:1", "224.0.0.1:1", "255.255.255.255:1"];
    const nowhere6 = ["[::1]:1", "[::]:1", "[fe80::1]:1", "[ff02::1]:1"];
    a.send({
      type: "candidates",
      session: id,
      round: 1,
      candidates: [
        ...[...nowhere, ...nowhere6].map((endpoint) => ({ kind: "host" as const, endpoint })),
        { ...reflexive, seen: true },
        reflexive,
        { kind: "host", endpoint: "192.168.1.2:51820" },
        { kind: "host", endpoint: "[2001:db8::2]:51820" },
      ],
    });
    const told = await b.next("candidates");
    // What the server has not seen itself it does not say to have seen, whoever says so.
    expect(told).toEqual({
      type: "candidates",
      session: id,
      round: 1,
      candidates: [
        reflexive,
        { kind: "host", endpoint: "192.168.1.2:51820" },
        { kind: "host", endpoint: "[2001:db8::2]:51820" },
      ],
    });
  });

  test("are not passed on for a session of others", async () => {
    const { b, id } = await pair();
    const stranger = await pair();
    stranger.a.send({ type: "candidates", session: id, round: 1, candidates: [reflexive] });
    stranger.a.send({ type: "punch-request", session: id });
    stranger.a.send({ type: "candidates", session: stranger.id, round: 1, candidates: [reflexive] });
    await stranger.b.next("candidates");
    expect(all(b, "candidates")).toEqual([]);
  });

  test("are kept for an end that comes back, whose rounds begin anew", async () => {
    const { a, b, node, id } = await pair();
    a.send({ type: "candidates", session: id, round: 7, candidates: [reflexive] });
    await b.next("candidates");
    const again = await introduce(server, node, 2n);
    again.send({ type: "candidates", session: id, round: 1, candidates: [reflexive] });
    expect(await again.next("candidates")).toMatchObject({ round: 7, candidates: [reflexive] });
    const first = await a.next("candidates");
    const third = await introduce(server, node, 3n);
    third.send({ type: "candidates", session: id, round: 1, candidates: [] });
    const second = await until(() => all(a, "candidates").find((one) => one !== first));
    // For whoever goes by the number, the later one is the higher one.
    expect(second.type === "candidates" && second.round).toBeGreaterThan(first.round);
  });

  test("start both ends, once both are known, and again when asked", async () => {
    const { a, b, id } = await pair();
    a.send({ type: "candidates", session: id, round: 3, candidates: [reflexive] });
    await b.next("candidates");
    expect(all(a, "punch")).toEqual([]);
    b.send({ type: "candidates", session: id, round: 5, candidates: [] });
    const [first, second] = [await a.next("punch"), await b.next("punch")];
    expect([first.round, second.round]).toEqual([3, 5]);
    expect([first.session, second.session]).toEqual([id, id]);
    a.send({ type: "punch-request", session: id });
    await until(() => all(a, "punch").length === 2 && all(b, "punch").length === 2);
  });
});

describe("the STUN responder", () => {
  test("answers on two ports, under a machine's own key", async () => {
    const { a } = await pair();
    const welcome = await a.welcome();
    const credential = welcome.stunCredential ?? { user: "", key: "" };
    expect(welcome.stun.map((name) => parseEndpoint(name)?.address)).toEqual([HERE, HERE]);
    const ports = welcome.stun.map((name) => parseEndpoint(name)?.port ?? 0);
    const from = await udp();
    for (const port of ports) {
      const request = bindingRequest(crypto.getRandomValues(new Uint8Array(12)), [
        { type: "username", text: credential.user },
      ]);
      from.send(encodeStun(request, { integrityKey: key(credential.key) }), port);
      const answer = await until(() => from.heard.find((one) => one.port === port));
      expect(checkIntegrity(answer.bytes, key(credential.key))).toBe(true);
      expect(decodeStun(answer.bytes)?.attributes).toContainEqual({
        type: "xor-mapped-address",
        endpoint: { address: HERE, port: from.socket.port },
      });
    }
    from.socket.close();
  });

  test("answers a wrong key as it answers anybody", async () => {
    const { a } = await pair();
    const { stun, stunCredential } = await a.welcome();
    const from = await udp();
    const request = bindingRequest(new Uint8Array(12), [{ type: "username", text: stunCredential?.user ?? "" }]);
    from.send(encodeStun(request, { integrityKey: new Uint8Array(32) }), parseEndpoint(stun[0] ?? "")?.port ?? 0);
    const [answer] = await until(() => (from.heard.length > 0 ? from.heard : null));
    expect(decodeStun(answer?.bytes ?? new Uint8Array(0))?.attributes.map((one) => one.type)).toEqual([
      "xor-mapped-address",
    ]);
    from.socket.close();
  });
});

describe("the UDP relay of a session", () => {
  test("carries packets between its two ends by the keys of their grants, until the session ends", async () => {
    const { a, forClient, forNode, id } = await pair();
    const [one, other] = [await latched(forClient), await latched(forNode)];
    const packet = new Uint8Array(100).fill(7);
    packet.set([4, 0, 0, 0]);
    await until(() => {
      one.send(packet, one.port);
      return other.heard.some(({ bytes, port }) => bytes.length === 100 && port === other.port);
    });
    expect(server.server.status().relay).toMatchObject({ kernel: false });
    expect(server.server.status().relay.bytes).toBeGreaterThanOrEqual(100);
    const open = relay.sessions;
    a.send({ type: "disconnect", id });
    await a.next("session-end");
    expect(relay.sessions).toBe(open - 1);
    one.socket.close();
    other.socket.close();
  });

  test("has no port for two that policy keeps apart", async () => {
    const { a, client } = await pair();
    const other = await pair();
    const open = relay.sessions;
    a.send({ type: "connect", ref: 9, peer: other.client.id, kind: "wireguard" });
    expect(await a.next("refused")).toMatchObject({ ref: 9, code: "peer-unknown" });
    other.a.send({ type: "connect", ref: 9, peer: client.id, kind: "wireguard" });
    await other.a.next("refused");
    expect(relay.sessions).toBe(open);
  });

  test("carries nothing more from the moment at which one end is revoked, and the other goes on with its own", async () => {
    const { forClient, forNode, client } = await pair();
    const rest = await pair();
    const ends = await Promise.all([forClient, forNode, rest.forClient, rest.forNode].map(latched));
    const [one, other, third, fourth] = ends;
    if (one === undefined || other === undefined || third === undefined || fourth === undefined)
      throw new Error("no ends");
    const packet = new Uint8Array(100).with(0, 4);
    const count = (end: typeof one): number => end.heard.filter(({ bytes }) => bytes.length === 100).length;
    await until(() => {
      one.send(packet, one.port);
      return count(other) > 0;
    });
    const open = relay.sessions;
    await server.server.revoke(client.name);
    expect(relay.sessions).toBe(open - 1);
    const before = count(other);
    for (let i = 0; i < 5; i++) one.send(packet, one.port);
    await until(() => {
      third.send(packet, third.port);
      return count(fourth) > 0;
    });
    expect(count(other)).toBe(before);
    for (const { socket } of ends) socket.close();
  });

  test("is offered to as many sessions as there are ports", async () => {
    const places = [{ local: HERE, public: HERE }];
    await using small = udpRelay(
      { kernel: null, log: silentLogger },
      { places, ports: { first: 43_001, last: 43_002 } },
    );
    await using alone = await startServer({ udpRelay: small });
    const node = await enrolMachine(alone, "node", "node");
    await introduce(alone, node);
    const relays: string[] = [];
    for (let i = 0; i < 3; i++) {
      const control = await introduce(alone, await enrolMachine(alone, "client", `client-${i}`));
      control.send({ type: "connect", ref: 1, peer: node.id, kind: "wireguard" });
      const { session } = await control.next("connected");
      relays.push(session.probe?.relay?.endpoints[0] ?? "none");
    }
    expect(new Set(relays.slice(0, 2))).toEqual(new Set(["127.0.0.1:43001", "127.0.0.1:43002"]));
    expect(relays[2]).toBe("none");
  });
});
