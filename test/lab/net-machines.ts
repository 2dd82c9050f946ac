// Two machines on one wire, and how a test drives the network code on them.
import { join } from "node:path";
import type { LabHost } from "../../src/lab/host.ts";
import { type Lab, startLab } from "../../src/lab/lab.ts";
import type { LabProcess } from "../../src/lab/process.ts";
import type { HostSpec } from "../../src/lab/topology.ts";
import { ROOT_DIR } from "./bundle.ts";
import { requireLab } from "./harness.ts";
import type { DriverOptions, Order, Said } from "./net-driver.ts";

/** "left" is 10.0.0.1 and 2001:db8::1, "right" is 10.0.0.2 and 2001:db8::2. */
export async function startTwoMachines(): Promise<Lab> {
  await requireLab();
  const machine = (name: string, n: number): HostSpec => ({
    name,
    kind: "host",
    interfaces: [{ name: "eth0", segment: "wire", ipv4: `10.0.0.${n}/24`, ipv6: [`2001:db8::${n}/64`] }],
    routes: [{ to: "default4", via: "10.0.0.254" }],
    nameservers: ["10.0.0.254"],
  });
  return await startLab(
    { segments: [{ name: "wire" }], hosts: [machine("left", 1), machine("right", 2)] },
    { programs: { bun: process.execPath }, visible: [ROOT_DIR] },
  );
}

/** A process of its own for each order. */
export async function drive(host: LabHost, order: Order, options: DriverOptions = {}): Promise<Said> {
  const { code, stdout, stderr } = await host.exec(driverArgv(order, options));
  if (options.dieBefore !== undefined && code === 137) return { code: "killed", message: "" };
  if (code !== 0) throw new Error(`The driver on ${host.name} ended with ${code}: ${stderr}`);
  return JSON.parse(stdout.trim().split("\n").at(-1) ?? "") as Said;
}

/** As `drive`, and throws unless it went well. */
export async function driveOrThrow<T>(host: LabHost, order: Order, options: DriverOptions = {}): Promise<T> {
  const said = await drive(host, order, options);
  if ("ok" in said) return said.ok as T;
  throw new Error(`Cannot ${order.do} on ${host.name}: ${said.message}`);
}

export function driveInBackground(host: LabHost, order: Order): Promise<LabProcess> {
  return host.spawn(driverArgv(order, {}));
}

function driverArgv(order: Order, options: DriverOptions): readonly string[] {
  const scripts = [join(ROOT_DIR, "scripts/preload.ts"), join(ROOT_DIR, "test/lab/net-driver.ts")] as const;
  return ["bun", "--preload", ...scripts, JSON.stringify(order), JSON.stringify(options)];
}
