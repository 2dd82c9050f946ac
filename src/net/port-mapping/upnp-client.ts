// Mappings by UPnP: the router is searched for, its description read, and its WAN connection told.
import type { Endpoint, IpAddress } from "../../base/ip.ts";
import { askGateway } from "./gateway-http.ts";
import type { GatewaySocket } from "./gateway-socket.ts";
import { isGlobal, LEASE_S, type MappingClient } from "./mapping-client.ts";
import {
  CONFLICT,
  ONLY_PERMANENT,
  readControls,
  readSearchAnswer,
  readSoapAnswer,
  SEARCHES,
  type SoapAnswer,
  soapRequest,
  SSDP_PORT,
  type UpnpAction,
  type UpnpControl,
} from "./upnp-igd.ts";
import { MOST_XML_BYTES } from "./upnp-xml.ts";

export interface UpnpClientDeps {
  readonly socket: GatewaySocket;
  readonly gateway: IpAddress;
  readonly localAddress: IpAddress;
  readonly internalPort: number;
  /** Resolves when TCP to there goes past a full tunnel. */
  readonly allowTcp: (to: Endpoint) => Promise<void>;
}

/** UPnP Device Architecture 1.1 section 1.3.2. */
const SSDP_GROUP = "239.255.255.250" as IpAddress;
/** Slow routers think for a second; none of ours waits for them to say that it is up. */
const HTTP_TIMEOUT_MS = 3000;
const UNMAP_TIMEOUT_MS = 1000;
/** The router may have given the port to somebody else: then others by chance, as everybody does. */
const PORT_ATTEMPTS = 4;

/** Resolves with the description's place; the router is asked for more only when its mapping is wanted. */
export async function probeUpnp(
  deps: UpnpClientDeps,
  options: { readonly scheduleMs: readonly number[] },
  signal: AbortSignal,
): Promise<MappingClient | null> {
  const { socket, gateway } = deps;
  const group = { address: SSDP_GROUP, port: SSDP_PORT };
  // Also by its own address, as a host firewall lets in only what answers a packet to the very sender.
  const to = [{ address: gateway, port: SSDP_PORT }, group];
  const searching = new AbortController();
  const onAbort = (): void => searching.abort(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  if (signal.aborted) onAbort();
  try {
    const read = (bytes: Uint8Array): URL | null => readSearchAnswer(bytes, gateway);
    const asked = SEARCHES.map((bytes) =>
      socket.ask({ bytes, to, read, scheduleMs: options.scheduleMs }, searching.signal),
    );
    const found = await firstOf(asked);
    return found === null ? null : upnpClient(deps, found);
  } finally {
    signal.removeEventListener("abort", onAbort);
    searching.abort(new Error("the router was found"));
  }
}

/** The first that is not null. */
async function firstOf<T>(promises: readonly Promise<T | null>[]): Promise<T | null> {
  return new Promise((resolve, reject) => {
    let left = promises.length;
    for (const promise of promises) {
      promise.then((value) => {
        left--;
        if (value !== null || left === 0) resolve(value);
      }, reject);
    }
  });
}

function upnpClient(deps: UpnpClientDeps, location: URL): MappingClient {
  const { gateway, localAddress, internalPort } = deps;
  let control: UpnpControl | null = null;

  const allow = (url: URL): Promise<void> =>
    deps.allowTcp({ address: gateway, port: url.port === "" ? 80 : Number(url.port) });
  const tell = async (
    action: UpnpAction,
    options: { readonly to: UpnpControl; readonly timeoutMs: number; readonly signal: AbortSignal },
  ): Promise<SoapAnswer> => {
    const request = { ...soapRequest(options.to, action), mostBytes: MOST_XML_BYTES, timeoutMs: options.timeoutMs };
    return readSoapAnswer(await askGateway(request, options.signal));
  };

  /** Of several WAN connections the first that has an address. */
  const findControl = async (signal: AbortSignal): Promise<{ control: UpnpControl; address: IpAddress } | null> => {
    let candidates: readonly UpnpControl[] = control === null ? [] : [control];
    if (control === null) {
      await allow(location);
      const asked = { url: location, mostBytes: MOST_XML_BYTES, timeoutMs: HTTP_TIMEOUT_MS };
      const reply = await askGateway(asked, signal);
      if (reply?.status === 200) candidates = readControls(reply.body, { url: location, gateway }).slice(0, 3);
    }
    for (const one of candidates) {
      await allow(one.url);
      const answer = await tell({ name: "GetExternalIPAddress" }, { to: one, timeoutMs: HTTP_TIMEOUT_MS, signal });
      if (answer.ok && answer.externalAddress !== null) return { control: one, address: answer.externalAddress };
    }
    return null;
  };

  return {
    protocol: "upnp",
    async map(before, signal) {
      const found = await findControl(signal);
      control = found?.control ?? null;
      // A router that is itself behind another has nothing to give.
      if (found === null || !isGlobal(found.address)) return null;
      let externalPort = before?.external.port ?? internalPort;
      let leaseS = LEASE_S;
      for (let attempt = 0; attempt < PORT_ATTEMPTS; attempt++) {
        const action = { name: "AddPortMapping", internalPort, client: localAddress, externalPort, leaseS } as const;
        const answer = await tell(action, { to: found.control, timeoutMs: HTTP_TIMEOUT_MS, signal });
        if (answer.ok) {
          // What lasts for ever is asked for again as if it did not: the router may be started anew.
          return { external: { address: found.address, port: externalPort }, lifetimeS: LEASE_S };
        }
        if (answer.code === ONLY_PERMANENT && leaseS !== 0) leaseS = 0;
        else if (answer.code === CONFLICT) externalPort = 1024 + Math.floor(Math.random() * 64_512);
        else return null;
      }
      return null;
    },
    async unmap({ external }, signal) {
      if (control === null) return;
      const action = { name: "DeletePortMapping", externalPort: external.port } as const;
      await tell(action, { to: control, timeoutMs: UNMAP_TIMEOUT_MS, signal });
    },
  };
}
