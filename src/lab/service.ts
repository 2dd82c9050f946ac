// Runs one service of the lab's internet in the process that the lab started for it on a host.
import { readFile } from "node:fs/promises";
import { z } from "zod";
import type { Service } from "../base/service.ts";
import { runDelay } from "./delay.ts";
import { runDns } from "./dns-server.ts";
import { LabRefused } from "./errors.ts";
import { interfaceAddresses } from "./topology.ts";
import type { HostSpec, ServiceSpec } from "./topology.ts";
import { runProxy } from "./proxy-server.ts";
import { runWeb } from "./web-server.ts";
import type { LongLine } from "./wire.ts";

/** On every host: what to trust when asking the lab's DNS server over HTTPS. */
export const LAB_CA_PATH = "/etc/lab/ca.pem";
/** On the DNS server's host. */
export const LAB_CERTIFICATE_PATH = "/etc/lab/dns.pem";
export const LAB_KEY_PATH = "/etc/lab/dns.key";
/** Said on standard output when the service listens. */
export const LAB_SERVICE_READY = "lab-service ready";

const addressesShape = z.array(z.string()).min(1);
const serviceShape = z.discriminatedUnion("kind", [
  z.object({ kind: z.literal("web"), addresses: addressesShape, port: z.number().int() }),
  z.object({
    kind: z.literal("dns"),
    addresses: addressesShape,
    zone: z.array(z.object({ name: z.string(), type: z.enum(["A", "AAAA", "TXT"]), data: z.string() })),
  }),
  z.object({
    kind: z.literal("proxy"),
    addresses: addressesShape,
    port: z.number().int(),
    login: z.string().nullable(),
  }),
  z.object({
    kind: z.literal("delay"),
    lines: z
      .array(
        z.object({
          near: z.string(),
          far: z.string(),
          delayMs: z.number(),
          jitterMs: z.number(),
          only: z.enum(["tcp", "udp"]).nullable(),
        }),
      )
      .min(1),
  }),
]);
type ServiceOrder = z.infer<typeof serviceShape>;

/** The two arguments for the program that runs the service: its kind, and the rest as JSON. */
export function labServiceArguments(host: HostSpec, service: ServiceSpec): readonly [string, string] {
  const addresses = [...interfaceAddresses(host)];
  return [service.kind, JSON.stringify(orderOf(service, addresses))];
}

function orderOf(service: ServiceSpec, addresses: string[]): ServiceOrder {
  switch (service.kind) {
    case "web":
      return { kind: "web", addresses, port: service.port };
    case "dns":
      return { kind: "dns", addresses, zone: [...service.zone] };
    case "proxy":
      return { kind: "proxy", addresses, port: service.port, login: service.login ?? null };
  }
}

/** As above, for the one process in the switches' namespace that all long lines have. */
export function labDelayArguments(lines: readonly LongLine[]): readonly [string, string] {
  const order: ServiceOrder = {
    kind: "delay",
    lines: lines.map(({ near, far, delayMs, jitterMs = 0, only = null }) => ({ near, far, delayMs, jitterMs, only })),
  };
  return [order.kind, JSON.stringify(order)];
}

/** The other end of `labServiceArguments`. Resolves when the service listens, having said so on standard output. */
export async function runLabService(kind: string, json: string): Promise<Service> {
  const order = serviceShape.safeParse(JSON.parse(json));
  if (!order.success || order.data.kind !== kind) {
    throw new LabRefused(`Cannot run the lab service "${kind}": its order is not understood.`, {
      code: "lab-service-order",
    });
  }
  const service = await startService(order.data);
  console.log(LAB_SERVICE_READY);
  return service;
}

async function startService(order: ServiceOrder): Promise<Service> {
  switch (order.kind) {
    case "web":
      return runWeb(order);
    case "proxy":
      return runProxy(order);
    case "delay":
      return runDelay(order.lines);
    case "dns":
      return runDns({
        addresses: order.addresses,
        zone: order.zone,
        certificatePem: await readFile(LAB_CERTIFICATE_PATH, "utf8"),
        keyPem: await readFile(LAB_KEY_PATH, "utf8"),
      });
  }
}
