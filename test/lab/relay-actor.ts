// How a test speaks with the actors of a relayed session on lab hosts: two ends, a stranger and the server.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { LabHost } from "../../src/lab/host.ts";
import { type Lab, startLab } from "../../src/lab/lab.ts";
import type { LabProcess } from "../../src/lab/process.ts";
import type { HostSpec } from "../../src/lab/topology.ts";
import type { RelayKeys } from "../../src/server/udp-relay/messages.ts";
import { bundleForHosts } from "./bundle.ts";
import { requireLab } from "./harness.ts";

export type ActorOrder =
  | { readonly do: "send"; readonly hex: string; readonly fromPort: number; readonly to: string; readonly port: number }
  | {
      readonly do: "ask";
      readonly session: number;
      readonly fromPort: number;
      readonly to: string;
      readonly port: number;
      readonly forged?: boolean;
    }
  | { readonly do: "mute"; readonly mute: boolean }
  | { readonly do: "received" | "status" | "prepare" | "reset" }
  | { readonly do: "open" | "close"; readonly session: number }
  | { readonly do: "withhold"; readonly session: number; readonly withhold: boolean };

export interface RelayStatus {
  readonly kernel: boolean;
  readonly bytes: number;
  /** What the meters of all sessions were told. */
  readonly metered: number;
  /** Packets that the process forwarded. */
  readonly forwarded: number;
  readonly dropped: Readonly<Record<string, number>>;
  readonly stun: { readonly ignored: number; readonly forged: number };
}

/** The same on all hosts; sessions differ by their number. */
export function relayKeys(): RelayKeys {
  const key = (n: number): Uint8Array => new Uint8Array(32).fill(n);
  return { toEnd: [key(1), key(2)], fromEnd: [key(3), key(4)] };
}

export interface Actor extends AsyncDisposable {
  readonly host: LabHost;
  readonly process: LabProcess;
  ask(order: ActorOrder): Promise<unknown>;
}

export interface RelayLab extends AsyncDisposable {
  readonly lab: Lab;
  actor(host: string, mode: "end" | "server" | "system", argument: string): Promise<Actor>;
}

const NAMES = ["server", "left", "right", "stranger"] as const;

/** One wire: "server" is 10.0.0.1 and 2001:db8::1, "left" .2, "right" .3, "stranger" .4; each has a second IPv4 address, 10.0.1.x. */
export async function startRelayLab(): Promise<RelayLab> {
  await requireLab();
  const dir = mkdtempSync(join(tmpdir(), "higgs-relay-"));
  const path = join(dir, "relay-actor.js");
  const program = JSON.stringify(join(import.meta.dir, "relay-actor.program.ts"));
  await Bun.write(path, await bundleForHosts("relay-actor-entry.ts", `await import(${program});\n`));
  const hosts = NAMES.map(
    (name, i): HostSpec => ({
      name,
      kind: name === "server" ? "router" : "host",
      interfaces: [{ name: "eth0", segment: "wire", ipv4: `10.0.0.${i + 1}/23`, ipv6: [`2001:db8::${i + 1}/64`] }],
      routes: [],
      nameservers: [],
      ...(name === "server"
        ? { sysctls: { "net.ipv4.conf.all.send_redirects": "0", "net.ipv4.conf.eth0.send_redirects": "0" } }
        : {}),
    }),
  );
  const lab = await startLab(
    { segments: [{ name: "wire" }], hosts },
    { programs: { bun: process.execPath }, visible: [dir] },
  );
  let count = 0;
  return {
    lab,
    async actor(name, mode, argument) {
      const host = lab.host(name);
      const socket = join(dir, `${name}-${count++}.sock`);
      const child = await host.spawn(["bun", path, mode, socket, argument]);
      await child.waitForLine(/^ready$/);
      return {
        host,
        process: child,
        async ask(order) {
          const response = await fetch("http://actor/", { unix: socket, method: "POST", body: JSON.stringify(order) });
          return ((await response.json()) as { said: unknown }).said;
        },
        [Symbol.asyncDispose]: () => child[Symbol.asyncDispose](),
      };
    },
    async [Symbol.asyncDispose]() {
      await lab[Symbol.asyncDispose]();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
