// A tunnel that carries a thousand packets a second each way moves from a slow path to a fast one, and stays there.
// That WireGuard does not move when it is merely told is no test: each end follows the path of what it received last, so that
// two ends which were told settle on either path, by chance (the old one in 7 of 10 runs).
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { type Cidr, formatEndpoint, type IpAddress, parseEndpoint } from "../../src/base/ip.ts";
import { type Lab, startLab } from "../../src/lab/lab.ts";
import type { LabProcess } from "../../src/lab/process.ts";
import type { HostSpec } from "../../src/lab/topology.ts";
import type { RedirectPolicy } from "../../src/net/redirect.ts";
import type { WireGuardPeer } from "../../src/net/wg/device.ts";
import { newWireGuardSecret, wireGuardKeyOf } from "../../src/proto/keys.ts";
import { ROOT_DIR } from "./bundle.ts";
import { requireLab, until } from "./harness.ts";
import { type PathHost, startDriver } from "./path-hosts.ts";

const SECRETS = [newWireGuardSecret(), newWireGuardSecret()] as const;
const PORT = 51820;
const RELAY_PORT = 40000;
const DELAY_MS = 40;

function machine(name: string, n: number): HostSpec {
  return {
    name,
    kind: "host",
    interfaces: [{ name: "eth0", segment: "wire", ipv4: `10.0.0.${n}/24`, ipv6: [`2001:db8::${n}/64`] }],
    routes: [],
    nameservers: [],
  };
}

function at(text: string) {
  const endpoint = parseEndpoint(text);
  if (endpoint === null) throw new Error(`"${text}" is no endpoint.`);
  return endpoint;
}

/** The end's own view of the other one. */
function peer(index: 0 | 1, endpoint: string): WireGuardPeer {
  const n = index + 1;
  return {
    publicKey: wireGuardKeyOf(SECRETS[index]),
    endpoint: at(endpoint),
    allowedIps: [`10.64.0.${n}/32` as Cidr],
    // From the left alone: two handshakes that cross would cost both ends five seconds or more.
    keepaliveS: index === 1 ? 5 : 0,
  };
}

let lab: Lab;
beforeAll(async () => {
  await requireLab();
  const hosts = [machine("left", 1), machine("right", 2), machine("relay", 3)];
  lab = await startLab(
    { segments: [{ name: "wire" }], hosts },
    { programs: { bun: process.execPath }, visible: [ROOT_DIR] },
  );
}, 90_000);
afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
});

for (const family of [4, 6] as const) {
  const host = (n: number): string => (family === 4 ? `10.0.0.${n}` : `2001:db8::${n}`);
  const endpoint = (n: number, port: number): string => formatEndpoint({ address: host(n) as IpAddress, port });
  const RELAY = endpoint(3, RELAY_PORT);
  const DIRECT = [endpoint(2, PORT), endpoint(1, PORT)] as const;

  describe(`a tunnel over IPv${family} with a thousand packets a second each way`, () => {
    let ends: readonly [PathHost, PathHost];
    let relay: LabProcess;

    beforeEach(async () => {
      const program = join(ROOT_DIR, "test/lab/slow-relay.program.ts");
      const way = [String(RELAY_PORT), String(DELAY_MS), host(1), String(PORT), host(2), String(PORT)];
      relay = await lab.host("relay").spawn(["bun", program, ...way]);
      await relay.waitForLine(/^relaying$/);
      ends = await Promise.all([startDriver(lab.host("left")), startDriver(lab.host("right"))]);
      // The left last: it is the one that calls.
      for (const index of [1, 0] as const) {
        const end = ends[index];
        const config = {
          privateKey: SECRETS[index],
          listenPort: PORT,
          addresses: [`10.64.0.${index + 1}` as IpAddress],
          prefixes: ["10.64.0.0/24" as Cidr],
          mtu: 1420,
          peers: [peer(index === 0 ? 1 : 0, RELAY)],
        };
        await end.order({ do: "wireguard", config });
      }
      const answers = async (): Promise<boolean> =>
        (await lab.host("left").exec(["ping", "-n", "-c", "1", "-W", "1", "10.64.0.2"])).code === 0;
      await until(answers, { what: "the tunnel" });
      await ends[0].order({ do: "stream", to: "10.64.0.2" });
      await ends[1].order({ do: "stream", to: "10.64.0.1" });
      await beyond(500);
    }, 90_000);
    afterEach(async () => {
      for (const end of ends) {
        await end.order({ do: "stop" });
        await end.order({ do: "undo" });
        await end.process[Symbol.asyncDispose]();
      }
      await relay[Symbol.asyncDispose]();
    }, 90_000);

    /** Resolves when both ends have received so many more. */
    async function beyond(more: number): Promise<void> {
      const before = await Promise.all(ends.map((end) => end.status()));
      await until(async () => {
        const now = await Promise.all(ends.map((end) => end.status()));
        return now.every((status, index) => status.received - (before[index]?.received ?? 0) > more);
      });
    }

    const whereNow = async (): Promise<readonly (string | undefined)[]> =>
      (await Promise.all(ends.map((end) => end.status()))).map((status) => status.endpoints[0]);

    async function passed(): Promise<number> {
      const { length } = relay.lines;
      relay.kill("SIGUSR1");
      await until(() => relay.lines.length > length);
      return Number(/\d+/.exec(relay.lines.at(-1) ?? "")?.[0]);
    }

    async function lost(): Promise<number> {
      for (const end of ends) await end.order({ do: "stop" });
      const left = async (): Promise<number> => {
        const [a, b] = await Promise.all(ends.map((end) => end.status()));
        return (a?.sent ?? 0) - (b?.received ?? 0) + (b?.sent ?? 0) - (a?.received ?? 0);
      };
      let before = -1;
      // What is under way arrives; what does not change any more is lost.
      await until(
        async () => {
          const now = await left();
          const isOver = now === 0 || now === before;
          before = now;
          return isOver;
        },
        { everyMs: DELAY_MS * 10 },
      );
      return left();
    }

    const policy = (more: Partial<RedirectPolicy>): RedirectPolicy => ({
      wireGuardPort: PORT,
      redirects: [],
      dropFrom: [],
      ...more,
    });
    const tell = (index: 0 | 1): Promise<null> =>
      ends[index].order({ do: "peer", peer: peer(index === 0 ? 1 : 0, DIRECT[index]) });

    test("follows a redirect of what it sends, loses nothing, and stays when the redirect is gone", async () => {
      for (const index of [0, 1] as const) {
        const redirects = [{ from: at(RELAY), to: at(DIRECT[index]) }];
        await ends[index].order({ do: "redirect", policy: policy({ redirects }) });
      }
      await until(async () => Bun.deepEquals(await whereNow(), DIRECT), { what: "the new path at both ends" });
      await beyond(500);
      for (const index of [0, 1] as const) await ends[index].order({ do: "redirect", policy: policy({}) });
      const before = await passed();
      await beyond(1000);
      expect(await passed()).toBe(before);
      expect(await whereNow()).toEqual(DIRECT);
      expect(await lost()).toBe(0);
      for (const name of ["left", "right"]) {
        expect(await lab.host(name).execOrThrow(["nft", "list", "tables"])).not.toContain("redirect");
      }
    }, 90_000);

    test("moves at once when it is told, and the path that was given up is dropped on arrival", async () => {
      for (const index of [0, 1] as const) {
        await ends[index].order({ do: "redirect", policy: policy({ dropFrom: [at(RELAY)] }) });
        await tell(index);
      }
      await until(async () => Bun.deepEquals(await whereNow(), DIRECT), { what: "the new path at both ends" });
      await beyond(500);
      const before = await passed();
      await beyond(500);
      expect(await passed()).toBe(before);
    }, 90_000);
  });
}
