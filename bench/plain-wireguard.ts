// The yardstick: a WireGuard tunnel between a laptop and a home PC made by hand, with the exit behind it, as people make it.
import { readFileSync } from "node:fs";
import type { LabHost } from "../src/lab/host.ts";
import { WEB_ADDRESS } from "./network.ts";

/** As higgs's own, so that packets are of the same size. */
const MTU = 1420;
const INTERFACE = "plain0";
const PROGRAM = "/usr/local/bin/plain-wg";
const SUBNET = "10.99.0";

export interface PlainTunnel {
  readonly laptop: LabHost;
  readonly home: LabHost;
}

export interface PlainOptions {
  /** A wireguard-go; null for the kernel's own. */
  readonly programPath: string | null;
  /** As the laptop reaches the home PC: the router's address and the port that it forwards. */
  readonly endpoint: string;
  readonly listenPort: number;
}

/** The laptop reaches the web server's address through the home PC, which masquerades; all else stays as it is. */
export async function plainTunnel(ends: PlainTunnel, options: PlainOptions): Promise<void> {
  const { laptop, home } = ends;
  const keys = await Promise.all([laptop, home].map((host) => makeInterface(host, options.programPath)));
  const [laptopKey = "", homeKey = ""] = keys;
  const set = (...args: string[]): string[] => ["wg", "set", INTERFACE, ...args];
  await home.execOrThrow(
    set("listen-port", String(options.listenPort), "peer", laptopKey, "allowed-ips", `${SUBNET}.2/32`),
  );
  await laptop.execOrThrow(
    set("peer", homeKey, "allowed-ips", "0.0.0.0/0", "endpoint", options.endpoint, "persistent-keepalive", "25"),
  );
  await address(home, `${SUBNET}.1/24`);
  await address(laptop, `${SUBNET}.2/24`);
  await laptop.execOrThrow(["ip", "route", "add", WEB_ADDRESS, "dev", INTERFACE]);
  await home.execOrThrow(["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
  await home.execOrThrow(["nft", "-f", "-"], {
    stdin: `table ip plain {
  chain post {
    type nat hook postrouting priority 100
    iifname "${INTERFACE}" oifname "eth0" masquerade
  }
}
`,
  });
  await laptop.execOrThrow(["ping", "-c", "1", "-W", "5", WEB_ADDRESS]);
}

/** Gives its public key. */
async function makeInterface(host: LabHost, programPath: string | null): Promise<string> {
  if (programPath === null) {
    await host.execOrThrow(["ip", "link", "add", INTERFACE, "type", "wireguard"]);
  } else {
    await host.writeFile(PROGRAM, readFileSync(programPath));
    await host.execOrThrow(["chmod", "755", PROGRAM]);
    await host.execOrThrow([PROGRAM, INTERFACE], { env: { WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD: "1" } });
  }
  const key = await host.execOrThrow(["wg", "genkey"]);
  await host.execOrThrow(["wg", "set", INTERFACE, "private-key", "/dev/stdin"], { stdin: key });
  return (await host.execOrThrow(["wg", "pubkey"], { stdin: key })).trim();
}

async function address(host: LabHost, cidr: string): Promise<void> {
  await host.execOrThrow(["ip", "addr", "add", cidr, "dev", INTERFACE]);
  await host.execOrThrow(["ip", "link", "set", INTERFACE, "mtu", String(MTU), "up"]);
}

/** What its processes look like in the table of them. */
export const PLAIN_PROCESS = /^\/usr\/local\/bin\/plain-wg /;
