// A side port: WireGuard's packets to one peer leave from another port and come back to it, in the kernel, while STUN stays at its socket.
import { afterAll, beforeAll, expect, test } from "bun:test";
import { type Cidr, type IpAddress, parseEndpoint } from "../../src/base/ip.ts";
import { type Lab, startLab } from "../../src/lab/lab.ts";
import { smallInternet } from "../../src/lab/small-internet.ts";
import type { RedirectPolicy } from "../../src/net/redirect.ts";
import { newWireGuardSecret, wireGuardKeyOf } from "../../src/proto/keys.ts";
import { ROOT_DIR } from "./bundle.ts";
import { requireLab, until } from "./harness.ts";
import { type PathHost, startDriver } from "./path-hosts.ts";

const SECRETS = [newWireGuardSecret(), newWireGuardSecret()] as const;
const PORT = 51820;
const VPS = `203.0.113.10:${PORT}`;
/** The café's router keeps port numbers, so that the world sees a socket's own. */
const laptopAt = (port: number): string => `203.0.113.66:${port}`;

/** As a distribution's own firewall: nothing comes in but answers. */
const HOST_FIREWALL = `table inet host {
  chain input {
    type filter hook input priority filter; policy drop;
    iifname "lo" accept
    ct state established,related accept
  }
}
`;

function at(text: string) {
  const endpoint = parseEndpoint(text);
  if (endpoint === null) throw new Error(`"${text}" is no endpoint.`);
  return endpoint;
}

let lab: Lab;
let laptop: PathHost;
let vps: PathHost;

beforeAll(async () => {
  await requireLab();
  lab = await startLab(smallInternet(), { programs: { bun: process.execPath }, visible: [ROOT_DIR] });
  [laptop, vps] = await Promise.all([startDriver(lab.host("laptop")), startDriver(lab.host("vps"))]);
  // The laptop last: it is the one that calls.
  for (const [index, end] of [vps, laptop].entries()) {
    const own = index === 0 ? 1 : 0;
    const peer = {
      publicKey: wireGuardKeyOf(SECRETS[own === 0 ? 1 : 0]),
      endpoint: own === 0 ? at(VPS) : null,
      allowedIps: [`10.64.0.${own === 0 ? 2 : 1}/32` as Cidr],
      keepaliveS: own === 0 ? 5 : 0,
    };
    const config = {
      privateKey: SECRETS[own],
      listenPort: PORT,
      addresses: [`10.64.0.${own + 1}` as IpAddress],
      prefixes: ["10.64.0.0/24" as Cidr],
      mtu: 1420,
      peers: [peer],
    };
    await end.order({ do: "wireguard", config });
    await end.order({ do: "open", mechanism: "nft", ports: { wireGuardPort: PORT } });
  }
  await laptop.host.execOrThrow(["nft", "-f", "-"], { stdin: HOST_FIREWALL });
  await until(pings, { what: "the tunnel" });
}, 60_000);
afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
});

async function pings(): Promise<boolean> {
  return (await lab.host("laptop").exec(["ping", "-n", "-c", "1", "-W", "5", "10.64.0.2"])).code === 0;
}

async function seenByVps(): Promise<string> {
  return (await vps.status()).endpoints[0] ?? "";
}

function policy(sides: RedirectPolicy["sides"] & object): RedirectPolicy {
  return { wireGuardPort: PORT, redirects: [], dropFrom: [], sides };
}

/** Resolves when both ends have received so many more. */
async function beyond(more: number): Promise<void> {
  const before = await Promise.all([laptop.status(), vps.status()]);
  await until(async () => {
    const now = await Promise.all([laptop.status(), vps.status()]);
    return now.every((status, index) => status.received - (before[index]?.received ?? 0) > more);
  });
}

async function lost(): Promise<number> {
  for (const end of [laptop, vps]) await end.order({ do: "stop" });
  let before = -1;
  // What is under way arrives; what does not change any more is lost.
  return await until(
    async () => {
      const [a, b] = await Promise.all([laptop.status(), vps.status()]);
      const now = a.sent - b.received + b.sent - a.received;
      const isOver = now === 0 || now === before;
      before = now;
      return isOver ? { now } : null;
    },
    { everyMs: 200 },
  ).then(({ now }) => now);
}

test("a tunnel that carries a thousand packets a second moves to a side port and back without losing one", async () => {
  expect(await seenByVps()).toBe(laptopAt(PORT));
  const port = await laptop.order<number>({ do: "side" });
  // The router has to know the port before the peer's packets may come by it.
  expect(await laptop.order<string | null>({ do: "ask", to: VPS, bySide: true })).toBe(laptopAt(port));
  await laptop.order({ do: "stream", to: "10.64.0.2" });
  // The laptop's firewall lets in only answers, inside of the tunnel too.
  await until(async () => (await vps.status()).received > 0, { what: "the laptop's first packets" });
  await vps.order({ do: "stream", to: "10.64.0.1" });
  await beyond(300);
  await laptop.order({ do: "redirect", policy: policy([{ port, peer: at(VPS), leaves: true }]) });
  await until(async () => (await seenByVps()) === laptopAt(port), { what: "the side port at the other end" });
  await beyond(500);
  // STUN to either port is for its own socket, and from either port by its own number.
  expect(await laptop.order<string | null>({ do: "ask", to: VPS, bySide: true, sizeBytes: 1440 })).toBe(laptopAt(port));
  expect(await laptop.order<string | null>({ do: "ask", to: VPS, sizeBytes: 1440 })).toBe(laptopAt(PORT));
  expect(await vps.order<string | null>({ do: "ask", to: laptopAt(port) })).toBe(VPS);
  expect(await vps.order<string | null>({ do: "ask", to: laptopAt(PORT) })).toBe(VPS);
  // Back, while what is under way may still come in by the side port.
  await laptop.order({ do: "redirect", policy: policy([{ port, peer: at(VPS), leaves: false }]) });
  await until(async () => (await seenByVps()) === laptopAt(PORT), { what: "WireGuard's port at the other end" });
  await beyond(500);
  expect(await lost()).toBe(0);
  expect((await laptop.status()).mistaken + (await vps.status()).mistaken).toBe(0);
}, 90_000);

test("the kernel carries it on when the process was killed, and a later one takes it away", async () => {
  const port = await laptop.order<number>({ do: "side" });
  await laptop.order({ do: "redirect", policy: policy([{ port, peer: at(VPS), leaves: true }]) });
  await until(async () => (await pings()) && (await seenByVps()) === laptopAt(port), { what: "the side port" });
  laptop.process.kill("SIGKILL");
  await laptop.process.exited;
  for (let i = 0; i < 3; i++) expect(await pings()).toBe(true);
  expect(await seenByVps()).toBe(laptopAt(port));
  laptop = await startDriver(laptop.host);
  expect(await laptop.order<string[]>({ do: "undo" })).toContain("Removed the table inet higgs_node_redirect.");
  expect(await laptop.host.execOrThrow(["nft", "list", "tables"])).not.toContain("higgs");
}, 90_000);
