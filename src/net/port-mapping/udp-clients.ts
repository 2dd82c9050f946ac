// Mappings by PCP and by NAT-PMP, which routers serve on the same UDP port.
import type { IpAddress } from "../../base/ip.ts";
import type { GatewaySocket } from "./gateway-socket.ts";
import { ASK_MS, LEASE_S, type MappingClient, usable } from "./mapping-client.ts";
import { natPmpAddress, natPmpMap, readNatPmpAddress, readNatPmpMapped } from "./nat-pmp.ts";
import { isPcpAnswer, pcpAnnounce, pcpMap, type PcpMapRequest, readPcpMapped } from "./pcp.ts";

export interface UdpClientDeps {
  readonly socket: GatewaySocket;
  readonly gateway: IpAddress;
  readonly localAddress: IpAddress;
  readonly internalPort: number;
}

/** RFC 6887 section 19.1, RFC 6886 section 3.1. */
const PORT = 5351;
/** The program ends meanwhile; one repetition is enough for a network of one hop. */
const UNMAP_MS: readonly number[] = [0, 150, 400];

/** `nonce`: 12 bytes; the same one takes over the mapping that an earlier process made. */
export async function probePcp(
  deps: UdpClientDeps,
  options: { readonly nonce: Uint8Array; readonly scheduleMs: readonly number[] },
  signal: AbortSignal,
): Promise<MappingClient | null> {
  const { socket, gateway, localAddress, internalPort } = deps;
  const to = [{ address: gateway, port: PORT }];
  const answer = await socket.ask(
    {
      bytes: pcpAnnounce(localAddress),
      to,
      read: (bytes, port) => (port === PORT && isPcpAnswer(bytes) ? true : null),
      scheduleMs: options.scheduleMs,
    },
    signal,
  );
  if (answer === null) return null;
  const ask = (request: PcpMapRequest, scheduleMs: readonly number[], askSignal: AbortSignal) =>
    socket.ask(
      {
        bytes: pcpMap(request),
        to,
        read: (bytes, port) => (port === PORT ? readPcpMapped(bytes, request) : null),
        scheduleMs,
      },
      askSignal,
    );
  const request = { client: localAddress, nonce: options.nonce, internalPort };
  const unmap = async (unmapSignal: AbortSignal): Promise<void> => {
    await ask({ ...request, suggested: null, lifetimeS: 0 }, UNMAP_MS, unmapSignal);
  };
  return {
    protocol: "pcp",
    async map(before, mapSignal) {
      const suggested = before?.external ?? null;
      const mapped = await ask({ ...request, suggested, lifetimeS: LEASE_S }, ASK_MS, mapSignal);
      if (mapped === null || mapped.result !== 0) return null;
      const granted = usable(mapped);
      if (granted === null) await unmap(mapSignal);
      return granted;
    },
    unmap: (_granted, unmapSignal) => unmap(unmapSignal),
  };
}

export async function probeNatPmp(
  deps: UdpClientDeps,
  options: { readonly scheduleMs: readonly number[] },
  signal: AbortSignal,
): Promise<MappingClient | null> {
  const { socket, gateway, internalPort } = deps;
  const to = [{ address: gateway, port: PORT }];
  const address = (scheduleMs: readonly number[], askSignal: AbortSignal) =>
    socket.ask(
      {
        bytes: natPmpAddress(),
        to,
        read: (bytes, port) => (port === PORT ? readNatPmpAddress(bytes) : null),
        scheduleMs,
      },
      askSignal,
    );
  const map = (
    wanted: { readonly suggestedPort: number; readonly lifetimeS: number },
    scheduleMs: readonly number[],
    askSignal: AbortSignal,
  ) =>
    socket.ask(
      {
        bytes: natPmpMap({ internalPort, ...wanted }),
        to,
        read: (bytes, port) => (port === PORT ? readNatPmpMapped(bytes, internalPort) : null),
        scheduleMs,
      },
      askSignal,
    );
  const unmap = async (unmapSignal: AbortSignal): Promise<void> => {
    await map({ suggestedPort: 0, lifetimeS: 0 }, UNMAP_MS, unmapSignal);
  };
  if ((await address(options.scheduleMs, signal)) === null) return null;
  return {
    protocol: "nat-pmp",
    async map(before, mapSignal) {
      const suggestedPort = before?.external.port ?? internalPort;
      const [external, mapped] = await Promise.all([
        address(ASK_MS, mapSignal),
        map({ suggestedPort, lifetimeS: LEASE_S }, ASK_MS, mapSignal),
      ]);
      if (mapped === null || mapped.result !== 0) return null;
      const { externalPort: port, lifetimeS } = mapped;
      const granted = external === null ? null : usable({ external: { address: external, port }, lifetimeS });
      if (granted === null) await unmap(mapSignal);
      return granted;
    },
    unmap: (_granted, unmapSignal) => unmap(unmapSignal),
  };
}
