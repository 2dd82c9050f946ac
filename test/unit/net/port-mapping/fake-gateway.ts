// A router that maps ports by PCP, NAT-PMP and UPnP, honestly or not, and remembers what is mapped.
import { ByteReader, ByteWriter } from "../../../../src/base/bytes.ts";
import { type IpAddress, ipBytes, ipFromBytes, parseIp } from "../../../../src/base/ip.ts";

export type Manner =
  /** Does not answer. */
  | "silent"
  | "honest"
  /** Says that everything went well, with this as its address. */
  | { readonly lies: string }
  /** Maps, for no time at all. */
  | "lease-0"
  | "refuses"
  /** As many bytes as it can. */
  | "huge"
  /** What is no answer at all, in every shape. */
  | "garbage"
  /** UPnP: leads elsewhere, by HTTP or by its search answer. */
  | { readonly redirects: string }
  | { readonly location: string }
  /** UPnP: another has the port that is asked for first. */
  | "conflict"
  /** UPnP: leases without an end only. */
  | "permanent";

export interface FakeGatewayOptions {
  readonly address: string;
  readonly external: string;
  readonly pcp?: Manner;
  readonly natPmp?: Manner;
  readonly upnp?: Manner;
  /** What a mapping does to the machine. */
  readonly onChange?: (mappings: ReadonlyMap<number, FakeMapping>) => Promise<void> | void;
  /** Where HTTP is served; default one that the kernel chooses. */
  readonly httpPort?: number;
}

export interface FakeMapping {
  readonly by: "pcp" | "nat-pmp" | "upnp";
  readonly client: string;
  readonly internalPort: number;
  readonly leaseS: number;
}

export interface FakeGateway extends AsyncDisposable {
  /** By external port. */
  readonly mappings: Map<number, FakeMapping>;
  /** Each request in a word. */
  readonly asked: string[];
  readonly httpPort: number;
  /** As a router that is started anew: nothing is mapped any more. */
  forget(): void;
}

const CONTROL = "urn:schemas-upnp-org:service:WANIPConnection:1";

export async function fakeGateway(options: FakeGatewayOptions): Promise<FakeGateway> {
  const stack = new AsyncDisposableStack();
  const mappings = new Map<number, FakeMapping>();
  const asked: string[] = [];
  const manner = (name: "pcp" | "natPmp" | "upnp"): Manner => options[name] ?? "silent";
  const change = async (externalPort: number, mapping: FakeMapping | null): Promise<void> => {
    if (mapping === null) mappings.delete(externalPort);
    else mappings.set(externalPort, mapping);
    await options.onChange?.(mappings);
  };

  const udp = await Bun.udpSocket({
    hostname: options.address,
    port: 5351,
    binaryType: "uint8array",
    socket: {
      async data(socket, bytes, port, from) {
        const isPcp = bytes[0] === 2;
        const how = manner(isPcp ? "pcp" : "natPmp");
        if (how === "silent") return;
        if (how === "garbage") {
          for (const shape of [[], [2], [2, 0x80], [2, 0x81, 0, 0], [0, 128], [0, 129, 0, 0, 9]]) {
            socket.send(Uint8Array.from(shape), port, from);
          }
          return;
        }
        if (how === "huge") {
          const huge = new Uint8Array(60_000);
          huge[0] = isPcp ? 2 : 0;
          huge[1] = isPcp ? 0x80 : 128;
          socket.send(huge, port, from);
          return;
        }
        const answer = isPcp ? await pcp(bytes, how) : await natPmp(bytes, from, how);
        if (answer !== null) socket.send(answer, port, from);
      },
      error: () => undefined,
    },
  });
  stack.defer(() => udp.close());

  /** External addresses and results that a manner gives. */
  const address = (how: Manner): IpAddress =>
    parseIp(typeof how === "object" && "lies" in how ? how.lies : options.external) ?? ("0.0.0.0" as IpAddress);

  async function pcp(bytes: Uint8Array, how: Manner): Promise<Uint8Array | null> {
    const reader = new ByteReader(bytes);
    reader.take(1);
    const opcode = reader.u8();
    reader.take(2);
    const lifetimeS = reader.u32();
    const client = ipFromBytes(reader.take(16).slice()) ?? "";
    const head = (result: number, leaseS: number): ByteWriter =>
      new ByteWriter()
        .u8(2)
        .u8(0x80 + opcode)
        .u8(0)
        .u8(result)
        .u32(leaseS)
        .u32(1)
        .bytes(new Uint8Array(12));
    if (opcode === 0) {
      asked.push("pcp announce");
      return head(0, 0).finish();
    }
    const nonce = reader.take(12).slice();
    const protocol = reader.take(4).slice();
    const internalPort = reader.u16();
    const suggested = reader.u16() || internalPort;
    asked.push(lifetimeS === 0 ? "pcp unmap" : "pcp map");
    const external = new Uint8Array(16);
    external.set([0xff, 0xff], 10);
    external.set(ipBytes(address(how)), 12);
    if (how !== "refuses") {
      const old = [...mappings].find(([, one]) => one.by === "pcp" && one.internalPort === internalPort)?.[0];
      const leaseS = lifetimeS;
      await change(old ?? suggested, lifetimeS === 0 ? null : { by: "pcp", client, internalPort, leaseS });
    }
    return head(how === "refuses" ? 2 : 0, how === "lease-0" ? 0 : lifetimeS)
      .bytes(nonce)
      .bytes(protocol)
      .u16(internalPort)
      .u16(suggested)
      .bytes(external)
      .finish();
  }

  async function natPmp(bytes: Uint8Array, client: string, how: Manner): Promise<Uint8Array | null> {
    const reader = new ByteReader(bytes);
    reader.take(1);
    const result = how === "refuses" ? 2 : 0;
    if (reader.u8() === 0) {
      asked.push("nat-pmp address");
      return new ByteWriter()
        .u8(0)
        .u8(128)
        .u16(0)
        .u32(1)
        .bytes(ipBytes(address(how)))
        .finish();
    }
    reader.take(2);
    const internalPort = reader.u16();
    const suggested = reader.u16() || internalPort;
    const lifetimeS = reader.u32();
    asked.push(lifetimeS === 0 ? "nat-pmp unmap" : "nat-pmp map");
    if (result === 0) {
      const old = [...mappings].find(([, one]) => one.by === "nat-pmp" && one.internalPort === internalPort)?.[0];
      const leaseS = lifetimeS;
      await change(old ?? suggested, lifetimeS === 0 ? null : { by: "nat-pmp", client, internalPort, leaseS });
    }
    const granted = how === "lease-0" ? 0 : lifetimeS;
    return new ByteWriter().u8(0).u8(129).u16(result).u32(1).u16(internalPort).u16(suggested).u32(granted).finish();
  }

  const http = Bun.serve({
    hostname: options.address,
    port: options.httpPort ?? 0,
    async fetch(request) {
      const how = manner("upnp");
      const { pathname } = new URL(request.url);
      asked.push(`${request.method} ${pathname}`);
      if (how === "huge") return new Response(endless());
      if (how === "garbage") return new Response("<root><device></service>&#x0;<a".repeat(50));
      if (typeof how === "object" && "redirects" in how) {
        return new Response(null, { status: 302, headers: { location: how.redirects } });
      }
      if (pathname === "/root.xml") return new Response(DESCRIPTION);
      if (pathname !== "/ctl") return new Response(null, { status: 404 });
      return await soap(await request.text(), how);
    },
  });
  stack.defer(() => http.stop(true));

  async function soap(body: string, how: Manner): Promise<Response> {
    const value = (name: string): string => new RegExp(`<${name}>([^<]*)</${name}>`).exec(body)?.[1] ?? "";
    const action = /<u:(\w+) /.exec(body)?.[1] ?? "";
    asked.push(action);
    const answer = (inner = ""): Response =>
      new Response(
        `<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><u:${action}Response xmlns:u="${CONTROL}">${inner}</u:${action}Response></s:Body></s:Envelope>`,
      );
    if (action === "GetExternalIPAddress")
      return answer(`<NewExternalIPAddress>${address(how)}</NewExternalIPAddress>`);
    const externalPort = Number(value("NewExternalPort"));
    if (action === "DeletePortMapping") {
      await change(externalPort, null);
      return answer();
    }
    const leaseS = Number(value("NewLeaseDuration"));
    const internalPort = Number(value("NewInternalPort"));
    if (how === "refuses") return fault(606);
    if (how === "permanent" && leaseS !== 0) return fault(725);
    if (how === "conflict" && externalPort === internalPort) return fault(718);
    await change(externalPort, { by: "upnp", client: value("NewInternalClient"), internalPort, leaseS });
    return answer();
  }

  const ssdp = await Bun.udpSocket({
    hostname: options.address,
    port: 1900,
    binaryType: "uint8array",
    socket: {
      data(socket, bytes, port, from) {
        const how = manner("upnp");
        if (how === "silent" || !new TextDecoder().decode(bytes).startsWith("M-SEARCH * HTTP/1.1\r\n")) return;
        asked.push("search");
        const location =
          typeof how === "object" && "location" in how
            ? how.location
            : `http://${options.address}:${http.port}/root.xml`;
        socket.send(`HTTP/1.1 200 OK\r\nST: upnp:rootdevice\r\nLocation: ${location}\r\n\r\n`, port, from);
      },
      error: () => undefined,
    },
  });
  stack.defer(() => ssdp.close());

  return {
    mappings,
    asked,
    httpPort: http.port ?? 0,
    forget: () => mappings.clear(),
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

function endless(): ReadableStream<Uint8Array> {
  return new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(16_384).fill(0x3c)) });
}

function fault(code: number): Response {
  return new Response(
    `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail><UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>${code}</errorCode></UPnPError></detail></s:Fault></s:Body></s:Envelope>`,
    { status: 500 },
  );
}

const DESCRIPTION = `<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0">
  <specVersion><major>1</major><minor>0</minor></specVersion>
  <device>
    <deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType>
    <friendlyName>A router &amp; more</friendlyName>
    <serviceList>
      <service><serviceType>urn:schemas-upnp-org:service:Layer3Forwarding:1</serviceType><controlURL>/l3</controlURL></service>
    </serviceList>
    <deviceList><device><deviceList><device>
      <deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType>
      <serviceList>
        <service>
          <serviceType>${CONTROL}</serviceType>
          <serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId>
          <controlURL>/ctl</controlURL>
          <eventSubURL>/evt</eventSubURL>
        </service>
      </serviceList>
    </device></deviceList></device></deviceList>
  </device>
</root>
`;
