// A quota of relayed traffic with the real binaries: the kernel relay's bytes use it up, both ends say so, and a direct path needs none.
import { afterAll, beforeAll, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { smallInternet } from "../../src/lab/small-internet.ts";
import { higgs, HIGGS, higgsOrThrow, HOME4, invitesOf, page, PAGE4, startClientLab, startNode } from "./client-lab.ts";
import { until } from "./harness.ts";

const MINUTE = 60_000;
const QUOTA_BYTES = 3_000_000;

let lab: Lab;
let laptop: LabHost;
let home: LabHost;
let vps: LabHost;

beforeAll(async () => {
  lab = await startClientLab(smallInternet({ homeIpv6: false, cafeIpv6: false }));
  [laptop, home, vps] = [lab.host("laptop"), lab.host("home-pc"), lab.host("vps")];
  const server = await vps.spawn([HIGGS, "server", "--relay-quota", "3MB/day"]);
  await server.waitForLine(/higgs server is running/);
  const invites = await invitesOf(server);
  await startNode(lab, "--join", invites.node);
  await higgsOrThrow(laptop, "client", "join", invites.client);
}, MINUTE);
afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
}, MINUTE);

interface Status {
  readonly path: { readonly kind: string } | null;
  readonly health: readonly { readonly code: string; readonly text: string; readonly remedy: string }[];
}

/** A degraded machine has an exit code of its own. */
async function statusOf(host: LabHost, role: "client" | "node"): Promise<Status> {
  return JSON.parse((await higgs(host, role, "status", "--json")).stdout) as Status;
}

interface Usage {
  readonly name: string;
  readonly relayed: { readonly bytes: number; readonly limitBytes: number; readonly usedUp: boolean };
}

async function usage(): Promise<readonly Usage[]> {
  const { machines } = JSON.parse(await higgsOrThrow(vps, "server", "machines", "--json")) as { machines: Usage[] };
  return machines;
}

const fetchBytes = (n: number, timeoutS = 30) =>
  laptop.exec([HIGGS, "lab-service", "fetch", `${PAGE4}bytes?n=${n}`], { timeoutMs: timeoutS * 1000 });

test(
  "what the kernel relayed is counted, and once it is used up nothing is relayed and both ends know why",
  async () => {
    await higgsOrThrow(laptop, "client", "up", "--paths", "udp-relay,wss");
    await until(async () => (await statusOf(laptop, "client")).path?.kind === "udp-relay", { what: "the UDP relay" });
    const server = JSON.parse(await higgsOrThrow(vps, "server", "status", "--json")) as { relay: { kernel: boolean } };
    expect(server.relay.kernel).toBe(true);
    expect((await statusOf(laptop, "client")).health).toEqual([]);
    expect((await fetchBytes(1_000_000)).code).toBe(0);
    const counted = await until(async () => {
      const all = await usage();
      return all.every(({ relayed }) => relayed.bytes > 1_000_000) ? all : null;
    });
    for (const { relayed } of counted) expect(relayed).toMatchObject({ limitBytes: QUOTA_BYTES, usedUp: false });

    // Whether its end comes through is a matter of when the server looks; without one it waits in vain.
    await fetchBytes(3_000_000, 8).catch(() => undefined);
    const text = (host: LabHost, role: "client" | "node") =>
      until(async () => (await statusOf(host, role)).health.find(({ code }) => code === "relay-quota")?.text, {
        what: `${role} says why`,
        timeoutMs: 20_000,
      });
    const said =
      'the server relays none, as "home-pc" and "laptop" have used up the 3 MB that a machine may have relayed today';
    const sentences = await Promise.all([text(laptop, "client"), text(home, "node")]);
    expect(sentences.map((one) => one.replace('"laptop" and "home-pc"', '"home-pc" and "laptop"'))).toEqual([
      `Packets to "home-pc" wait for a direct path: ${said}.`,
      `Packets to "laptop" wait for a direct path: ${said}.`,
    ]);
    expect((await usage()).map(({ relayed }) => relayed.usedUp)).toEqual([true, true]);
    expect(await higgsOrThrow(vps, "server", "machines")).toContain("(used up)");
    expect(await higgsOrThrow(vps, "server", "sessions")).toContain("relays withheld");
    expect(await higgsOrThrow(vps, "server", "status")).toContain("has used up what it may have relayed");
    const why = JSON.parse(await higgsOrThrow(laptop, "why", "home-pc", "--json")) as { causes: string[] };
    expect(why.causes.join("\n")).toContain("No relay of the server carries them until");

    // Nothing comes through, by whichever relay.
    const lease = await vps.execOrThrow(["nft", "list", "set", "ip", "higgs_relay", "lease"]);
    expect(lease).not.toContain("elements");
    const before = await usage();
    expect((await laptop.exec(["ping", "-c", "10", "-i", "0.1", "-W", "1", "203.0.113.80"])).code).toBe(1);
    expect((await usage()).map(({ relayed }) => relayed.bytes)).toEqual(before.map(({ relayed }) => relayed.bytes));
    await higgsOrThrow(laptop, "client", "down");
  },
  MINUTE,
);

test(
  "a machine that has used it up connects directly, and nothing is wrong with it then",
  async () => {
    await higgsOrThrow(laptop, "client", "up", "--paths", "direct,udp-relay,wss");
    await until(async () => (await page(laptop, PAGE4)) === HOME4, { what: "the page through the home PC" });
    expect((await fetchBytes(5_000_000)).code).toBe(0);
    const { path, health } = await statusOf(laptop, "client");
    expect([path?.kind, health]).toEqual(["direct", []]);
    expect((await usage()).every(({ relayed }) => relayed.bytes < 2 * QUOTA_BYTES)).toBe(true);
    await higgsOrThrow(laptop, "client", "down");
  },
  MINUTE,
);

test(
  "a machine that has used it up and may not go directly is told why it does not connect",
  async () => {
    const up = await higgs(laptop, "client", "up", "--paths", "udp-relay,wss", "--timeout", "10s");
    expect(up.code).toBe(5);
    expect(up.stderr).toContain(
      'Cannot connect. Packets to "home-pc" wait for a direct path: the server relays none, as',
    );
    expect(up.stderr).toContain("The relay is back at ");
    await higgsOrThrow(laptop, "client", "down");
  },
  MINUTE,
);
