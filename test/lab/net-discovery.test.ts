// Discovery on real machines behind a real NAT: STUN and WireGuard share one port, by nft and by the bridge alike.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Cidr, IpAddress } from "../../src/base/ip.ts";
import type { LabHost } from "../../src/lab/host.ts";
import { type Lab, startLab } from "../../src/lab/lab.ts";
import { smallInternet } from "../../src/lab/small-internet.ts";
import type { WireGuardConfig, WireGuardPeer } from "../../src/net/wg/device.ts";
import { newWireGuardSecret, wireGuardKeyOf } from "../../src/proto/keys.ts";
import { ROOT_DIR } from "./bundle.ts";
import { requireLab, until } from "./harness.ts";
import { type PathHost, startDriver } from "./path-hosts.ts";

const SECRETS = { laptop: newWireGuardSecret(), vps: newWireGuardSecret() };
const VPS = "203.0.113.10";
const VPS6 = "2001:db8:10::10";
const LAPTOP6 = "2001:db8:66:1::2";
const PORT = 51820;
/** WireGuard's port where the bridge has the public one. */
const INNER_PORT = 51900;

function config(name: "laptop" | "vps", listenPort: number): WireGuardConfig {
  const n = name === "laptop" ? 1 : 2;
  return {
    privateKey: SECRETS[name],
    listenPort,
    addresses: [`10.64.0.${n}` as IpAddress],
    prefixes: ["10.64.0.0/24" as Cidr],
    mtu: 1420,
    peers: [],
  };
}

function peer(name: "laptop" | "vps", endpoint: { address: string; port: number } | null): WireGuardPeer {
  const n = name === "laptop" ? 1 : 2;
  return {
    publicKey: wireGuardKeyOf(SECRETS[name]),
    endpoint: endpoint === null ? null : { address: endpoint.address as IpAddress, port: endpoint.port },
    allowedIps: [`10.64.0.${n}/32` as Cidr],
    keepaliveS: endpoint === null ? 0 : 5,
  };
}

/** Ours alone, whatever else the machine has. */
async function ownTables(host: LabHost): Promise<string> {
  return (await host.execOrThrow(["nft", "list", "tables"]))
    .split("\n")
    .filter((line) => line.includes("higgs_"))
    .join();
}

/** As a distribution's own firewall: nothing comes in but answers. */
const HOST_FIREWALL = `table inet host {
  chain input {
    type filter hook input priority filter; policy drop;
    iifname "lo" accept
    ct state established,related accept
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
  }
}
`;

let lab: Lab;
beforeAll(async () => {
  await requireLab();
  lab = await startLab(smallInternet({ cafeNat: "port-restricted-non-preserving" }), {
    programs: { bun: process.execPath },
    visible: [ROOT_DIR],
  });
}, 60_000);
afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
});

for (const mechanism of ["nft", "bridge"] as const) {
  describe(`discovery by ${mechanism}`, () => {
    let laptop: PathHost;
    let vps: PathHost;
    const wireGuardPort = mechanism === "nft" ? PORT : INNER_PORT;
    const ports = { wireGuardPort, publicPort: PORT };

    beforeAll(async () => {
      [laptop, vps] = await Promise.all([startDriver(lab.host("laptop")), startDriver(lab.host("vps"))]);
      for (const [end, name] of [
        [laptop, "laptop"],
        [vps, "vps"],
      ] as const) {
        await end.order({ do: "wireguard", config: config(name, wireGuardPort) });
        await end.order({ do: "open", mechanism, ports });
      }
      await lab.host("laptop").execOrThrow(["nft", "-f", "-"], { stdin: HOST_FIREWALL });
    }, 60_000);
    afterAll(async () => {
      await lab.host("laptop").exec(["nft", "delete", "table", "inet", "host"]);
      for (const end of [laptop, vps]) {
        await end.order({ do: "undo" });
        await end.process[Symbol.asyncDispose]();
      }
    });

    test("shows the very mapping that WireGuard's packets have, also behind a firewall that drops by default", async () => {
      const mapped = await laptop.order<string | null>({ do: "ask", to: `${VPS}:${PORT}` });
      expect(mapped).toMatch(/^203\.0\.113\.66:[3-6]\d{4}$/);
      const toVps = await laptop.order<{ address: string; port: number }>({ do: "peer-socket", to: `${VPS}:${PORT}` });
      const toLaptop = await vps.order<{ address: string; port: number }>({ do: "peer-socket", to: mapped ?? "" });
      await vps.order({ do: "peer", peer: peer("laptop", null) });
      await laptop.order({ do: "peer", peer: peer("vps", toVps) });
      const seen = await until(async () => (await vps.status()).endpoints[0] || null, { what: "a handshake" });
      expect(seen).toBe(mechanism === "nft" ? (mapped ?? "") : `${toLaptop.address}:${toLaptop.port}`);
      expect((await lab.host("laptop").exec(["ping", "-n", "-c", "2", "-W", "5", "10.64.0.2"])).code).toBe(0);
      expect(await laptop.order<string | null>({ do: "ask", to: `${VPS}:${PORT}` })).toBe(mapped);
    });

    test("shares the port under load: every check is answered, small and of full size, and no packet is mistaken", async () => {
      const before = await Promise.all([laptop.status(), vps.status()]);
      await laptop.order({ do: "stream", to: "10.64.0.2" });
      await vps.order({ do: "stream", to: "10.64.0.1" });
      const asked: (string | null)[] = [];
      for (let round = 0; round < 20; round++) {
        asked.push(await laptop.order<string | null>({ do: "ask", to: `${VPS}:${PORT}` }));
        asked.push(await laptop.order<string | null>({ do: "ask", to: `${VPS}:${PORT}`, sizeBytes: 1440 }));
      }
      const isStreaming = async (): Promise<boolean> =>
        (await vps.status()).received - (before[1]?.received ?? 0) > 500;
      await until(isStreaming, { what: "half a second of the stream" });
      await laptop.order({ do: "stop" });
      await vps.order({ do: "stop" });
      expect(new Set(asked).size).toBe(1);
      expect(asked).toHaveLength(40);
      const arrived = async (): Promise<boolean> => {
        const [left, right] = await Promise.all([laptop.status(), vps.status()]);
        // A machine that is too busy drops some of a stream; none of it may have gone to discovery.
        return left.received > right.sent * 0.8 && right.received > left.sent * 0.8;
      };
      await until(arrived, { what: "what was sent" });
      expect((await laptop.status()).mistaken + (await vps.status()).mistaken).toBe(0);
    });

    test("works in IPv6, without an address of its own for discovery", async () => {
      expect(await laptop.order<string | null>({ do: "ask", to: `[${VPS6}]:${PORT}` })).toBe(`[${LAPTOP6}]:${PORT}`);
    });

    test("says by silence that a full packet does not fit", async () => {
      const router = lab.host("cafe-router");
      await router.execOrThrow(["ip", "link", "set", "wan", "mtu", "1300"]);
      try {
        const ask = { do: "ask", to: `${VPS}:${PORT}` } as const;
        expect(await laptop.order<string | null>({ ...ask, sizeBytes: 1440 })).toBe(null);
        expect(await laptop.order<string | null>(ask)).not.toBe(null);
        expect(await laptop.order<string | null>({ ...ask, sizeBytes: 1240 })).not.toBe(null);
      } finally {
        await router.execOrThrow(["ip", "link", "set", "wan", "mtu", "1500"]);
      }
      // Whatever the router said meanwhile of the path's size is not held against it.
      expect(await laptop.order<string | null>({ do: "ask", to: `${VPS}:${PORT}`, sizeBytes: 1440 })).not.toBe(null);
    });

    if (mechanism === "nft") {
      test("stands beside a size of the peer's own, which its route has and the device has not", async () => {
        const fits = async (bytes: number): Promise<boolean> => {
          const argv = ["ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s", String(bytes - 28), "10.64.0.2"];
          return (await lab.host("laptop").exec(argv)).code === 0;
        };
        expect(await fits(1400)).toBe(true);
        await laptop.order({ do: "mtus", peers: [{ prefixes: ["10.64.0.2/32" as Cidr], mtu: 1300 }] });
        expect([await fits(1400), await fits(1300)]).toEqual([false, true]);
        await laptop.order({ do: "mtus", peers: [] });
        expect(await fits(1400)).toBe(true);
      });

      test("is not to be reached by its own number, and mends what was flushed", async () => {
        await vps.order({ do: "close" });
        const { port } = await vps.order<{ port: number }>({ do: "open", mechanism, ports });
        expect(await laptop.order<string | null>({ do: "ask", to: `${VPS}:${port}` })).toBe(null);
        expect(await laptop.order<string | null>({ do: "ask", to: `${VPS}:${PORT}` })).not.toBe(null);
        await vps.host.execOrThrow(["nft", "flush", "ruleset"]);
        expect(await laptop.order<string | null>({ do: "ask", to: `${VPS}:${PORT}` })).toBe(null);
        expect(await vps.order<boolean>({ do: "repair" })).toBe(true);
        expect(await laptop.order<string | null>({ do: "ask", to: `${VPS}:${PORT}` })).not.toBe(null);
      });

      test("leaves nothing behind when it was killed and a later process cleans up", async () => {
        vps.process.kill("SIGKILL");
        await vps.process.exited;
        expect(await ownTables(vps.host)).toContain("higgs_node_demux");
        vps = await startDriver(vps.host);
        expect(await vps.order<string[]>({ do: "undo" })).toContain("Removed the table inet higgs_node_demux.");
        expect(await ownTables(vps.host)).toBe("");
        expect((await vps.host.exec(["test", "-e", "/var/lib/higgs-node/journal.json"])).code).toBe(1);
      });
    }
  });
}
