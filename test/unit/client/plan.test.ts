import { expect, test } from "bun:test";
import type { Cidr, Endpoint, IpAddress } from "../../../src/base/ip.ts";
import { exitRoutes, systemPlan, tunnelPeers } from "../../../src/client/plan.ts";
import { NOTHING_NEAR } from "../../../src/net/local-networks.ts";
import { type Lockdown, OPEN } from "../../../src/net/lockdown-file.ts";
import type { KnownPeer } from "../../../src/peer/netmap.ts";
import type { Session } from "../../../src/proto/control.ts";
import { ALL4, ALL6, knownPeer, RANGE4, RANGE6, READY, SELF_ADDRESSES, somebody } from "../peer/machines.ts";

const home = somebody("home", 2);
const cabin = somebody("cabin", 3);
const onlyIpv4 = { ...READY, ipv6: false };
const BRIDGE = "172.17.0.0/16" as Cidr;
const LAN = "192.168.7.0/24" as Cidr;
/** Of a LAN that has the tunnel's own addresses. */
const INSIDE = "10.77.3.0/24" as Cidr;
const server: Endpoint = { address: "203.0.113.10" as IpAddress, port: 443 };
const second: Endpoint = { address: "203.0.113.10" as IpAddress, port: 8443 };
const third: Endpoint = { address: "2001:db8::10" as IpAddress, port: 443 };

const NEAR = { bridges: ["docker0"], bridgePrefixes: [BRIDGE], lan: [LAN, INSIDE], outward: ["eth0"], routers: [] };

function plan(exit: KnownPeer | null, protection: Lockdown = OPEN) {
  return systemPlan({
    interface: "higgs0",
    uid: 7,
    addresses: SELF_ADDRESSES,
    range4: RANGE4,
    range6: RANGE6,
    carriers: [second, third, server],
    discoveryPort: null,
    wireGuardPort: 51820,
    networks: NEAR,
    protection,
    exit,
  });
}

test("systemPlan() sends both families into the tunnel of an exit that has both", () => {
  expect(plan(knownPeer(home))).toEqual({
    routes: {
      interface: "higgs0",
      uid: 7,
      carrier: [third, server, second],
      families: { 4: "tunnel", 6: "tunnel" },
      tunnelPrefixes: [RANGE4, RANGE6],
      throwPrefixes: [BRIDGE],
    },
    firewall: {
      policy: {
        kind: "connected",
        tunnel: { interface: "higgs0", addresses: SELF_ADDRESSES },
        own: { uid: 7, carrier: [third, server, second], wireGuardPort: 51820, routers: [] },
        near: { bridges: ["docker0"], lan: null },
      },
      egress: [],
    },
    dns: { interface: "higgs0", servers: [...home.addresses] },
  });
});

test("systemPlan() refuses IPv6 where the exit says that it has none, or its record offers none", () => {
  expect(plan(knownPeer(home, { exit: onlyIpv4 })).routes.families).toEqual({ 4: "tunnel", 6: "refuse" });
  expect(plan(knownPeer(home, { exit: null })).routes.families).toEqual({ 4: "tunnel", 6: "refuse" });
  expect(plan(knownPeer(home, {}, { routes: [ALL4] })).routes.families).toEqual({ 4: "tunnel", 6: "refuse" });
});

test("systemPlan() leaves the machine's own routes and resolver without an exit", () => {
  const { routes, dns } = plan(null);
  expect(routes.families).toEqual({ 4: "own", 6: "own" });
  expect(routes.tunnelPrefixes).toEqual([RANGE4, RANGE6]);
  expect(dns).toBeNull();
});

test("systemPlan() closes everything without an exit while the kill switch is on, and nothing otherwise", () => {
  expect(plan(null).firewall.policy.kind).toBe("exitless");
  expect(plan(null, { ...OPEN, lockdown: true }).firewall.policy.kind).toBe("connected");
});

test("systemPlan() leaves a LAN that is allowed to the main table, but for one with the tunnel's own addresses", () => {
  const { routes, firewall } = plan(knownPeer(home), { lockdown: false, lan: true, paranoid: true });
  expect(routes.throwPrefixes).toContain(LAN);
  expect(routes.throwPrefixes).not.toContain(INSIDE);
  expect(routes.throwPrefixes.some((prefix) => prefix.startsWith("ff"))).toBe(false);
  expect(firewall.egress).toEqual(["eth0"]);
  const near = firewall.policy.kind === "connected" ? firewall.policy.near : null;
  expect(near?.lan).toContain(LAN);
  expect(near?.lan).not.toContain(INSIDE);
});

test("systemPlan() does not depend on the order in which servers are known, and leaves its input alone", () => {
  const carriers = [third, server];
  const inputs = {
    interface: "higgs0",
    uid: 0,
    addresses: [],
    range4: RANGE4,
    range6: RANGE6,
    discoveryPort: null,
    wireGuardPort: 1,
    networks: NOTHING_NEAR,
    protection: OPEN,
    exit: null,
  };
  expect(systemPlan({ ...inputs, carriers })).toEqual(systemPlan({ ...inputs, carriers: [server, third] }));
  expect(carriers).toEqual([third, server]);
});

test("exitRoutes() has IPv6 only while the exit says so", () => {
  expect(exitRoutes(knownPeer(home))).toEqual([ALL4, ALL6]);
  expect(exitRoutes(knownPeer(home, { exit: onlyIpv4 }))).toEqual([ALL4]);
  expect(exitRoutes(knownPeer(home, { exit: null }))).toEqual([ALL4]);
});

test("tunnelPeers() gives the exit everything, and another peer its own addresses alone", () => {
  const session: Session = { id: 5, peer: home.id, kind: "wireguard", initiator: true };
  const peers = tunnelPeers([knownPeer(home), knownPeer(cabin)], home.id, new Map([[home.id, session]]));
  expect(peers.map((peer) => [peer.id, peer.session, peer.allowedIps.map(String)])).toEqual([
    [home.id, session, ["10.77.0.2/32", "fd00:77::2/128", "0.0.0.0/0", "::/0"]],
    [cabin.id, null, ["10.77.0.3/32", "fd00:77::3/128"]],
  ]);
});
