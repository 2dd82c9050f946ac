// The port mapper against routers of every manner, over real sockets on loopback.
import { afterEach, describe, expect, test } from "bun:test";
import { type IpAddress, parseIp } from "../../../../src/base/ip.ts";
import { createLogger, silentLogger } from "../../../../src/base/log.ts";
import { portMapper } from "../../../../src/net/port-mapping/mapper.ts";
import type { PortMapper, PortMapperOptions, PortMapping } from "../../../../src/net/port-mapping/port-mapping.ts";
import { type FakeGateway, type FakeGatewayOptions, fakeGateway } from "./fake-gateway.ts";

const EXTERNAL = "203.0.113.7";
const PORT = 51820;
const GATEWAY = "127.0.0.71";
const HERE = "127.0.0.1" as IpAddress;

let open: AsyncDisposable[] = [];
afterEach(async () => {
  for (const one of open.toReversed()) await one[Symbol.asyncDispose]();
  open = [];
});

interface Started {
  readonly gateway: FakeGateway;
  readonly mapper: PortMapper;
  /** Resolves when a round ended without a mapping. */
  readonly inVain: Promise<void>;
  /** The next mapping, or null, that it says. */
  next(): Promise<PortMapping | null>;
}

async function start(
  manners: Omit<FakeGatewayOptions, "address" | "external">,
  options: Partial<PortMapperOptions> = {},
): Promise<Started> {
  const gateway = await fakeGateway({ address: GATEWAY, external: EXTERNAL, ...manners });
  const said: (PortMapping | null)[] = [];
  let wake = (): void => undefined;
  const inVain = Promise.withResolvers<void>();
  const log = createLogger({
    level: "debug",
    write(line) {
      if (line.includes("the router maps no port")) inVain.resolve();
    },
  });
  const mapper = portMapper(
    { log },
    {
      gateway: parseIp(GATEWAY) ?? HERE,
      localAddress: HERE,
      internalPort: PORT,
      onChange(mapping) {
        said.push(mapping);
        wake();
      },
      ...options,
    },
  );
  open.push(gateway, mapper);
  return {
    gateway,
    mapper,
    inVain: inVain.promise,
    async next() {
      while (said.length === 0) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      return said.shift() ?? null;
    },
  };
}

const external = (port = PORT) => ({ address: EXTERNAL as IpAddress, port });

describe("portMapper()", () => {
  for (const [manner, protocol] of [
    ["pcp", "pcp"],
    ["natPmp", "nat-pmp"],
    ["upnp", "upnp"],
  ] as const) {
    test(`maps by ${protocol} and takes the mapping back at the end`, async () => {
      const { gateway, mapper, next } = await start({ [manner]: "honest" });
      expect(await next()).toEqual({ protocol, external: external() });
      expect(mapper.current).toEqual({ protocol, external: external() });
      expect([...gateway.mappings]).toEqual([[PORT, { by: protocol, client: HERE, internalPort: PORT, leaseS: 7200 }]]);
      await mapper[Symbol.asyncDispose]();
      expect(gateway.mappings.size).toBe(0);
    });

    test(`is told by ${protocol} to map again when the router forgot`, async () => {
      const { gateway, mapper, next } = await start({ [manner]: "honest" });
      await next();
      gateway.forget();
      mapper.refresh();
      while (gateway.mappings.size === 0 || mapper.current === null) await Bun.sleep(5);
      expect(mapper.current?.protocol).toBe(protocol);
    });

    test(`does not offer what a router maps by ${protocol} at an address that nobody can reach`, async () => {
      for (const lies of ["192.168.1.1", "100.64.3.4", "0.0.0.0", "127.0.0.1", "224.0.0.1"]) {
        const { gateway, mapper, inVain } = await start({ [manner]: { lies } });
        await inVain;
        expect(mapper.current).toBe(null);
        expect(gateway.mappings.size).toBe(0);
        for (const one of open.splice(0).toReversed()) await one[Symbol.asyncDispose]();
      }
    });

    test(`takes back what a router maps by ${protocol} at an address that is not how others see us`, async () => {
      const publicAddress = () => "198.51.100.1" as IpAddress;
      const { gateway, mapper, inVain } = await start({ [manner]: "honest" }, { publicAddress });
      await inVain;
      expect(gateway.asked).toContain(protocol === "upnp" ? "DeletePortMapping" : `${protocol} unmap`);
      expect(mapper.current).toBe(null);
      expect(gateway.mappings.size).toBe(0);
    });

    test(`goes on to the next protocol when the router refuses by ${protocol}`, async () => {
      const manners = { pcp: "honest", natPmp: "honest", upnp: "honest", [manner]: "refuses" } as const;
      const { next } = await start(manners);
      expect((await next())?.protocol).toBe(protocol === "pcp" ? "nat-pmp" : "pcp");
    });

    test(`outlives a router that says by ${protocol} too much, or nothing that makes sense`, async () => {
      for (const how of ["huge", "garbage"] as const) {
        const { gateway, mapper, inVain } = await start({ [manner]: how });
        await inVain;
        expect(mapper.current).toBe(null);
        if (protocol === "upnp") expect(gateway.asked).toContain("GET /root.xml");
        for (const one of open.splice(0).toReversed()) await one[Symbol.asyncDispose]();
      }
    });
  }

  test("prefers PCP to NAT-PMP to UPnP", async () => {
    const { gateway, next } = await start({ pcp: "honest", natPmp: "honest", upnp: "honest" });
    expect((await next())?.protocol).toBe("pcp");
    expect([...gateway.mappings.values()].map((one) => one.by)).toEqual(["pcp"]);
  });

  test("does not believe in a lease of no time", async () => {
    const { next } = await start({ pcp: "lease-0", natPmp: "lease-0", upnp: "honest" });
    expect((await next())?.protocol).toBe("upnp");
  });

  test("asks for another port when UPnP's is somebody else's", async () => {
    const { gateway, next } = await start({ upnp: "conflict" });
    const mapping = await next();
    expect(mapping?.external.port).not.toBe(PORT);
    expect([...gateway.mappings.keys()]).toEqual([mapping?.external.port ?? 0]);
  });

  test("takes a lease without an end where UPnP gives no other, and takes it back at the end", async () => {
    const { gateway, mapper, next } = await start({ upnp: "permanent" });
    await next();
    expect(gateway.mappings.get(PORT)?.leaseS).toBe(0);
    await mapper[Symbol.asyncDispose]();
    expect(gateway.mappings.size).toBe(0);
  });

  test("follows a UPnP router nowhere", async () => {
    const requests: string[] = [];
    await using elsewhere = Bun.serve({
      hostname: "127.0.0.72",
      port: 0,
      fetch(request) {
        requests.push(request.url);
        return new Response("");
      },
    }) as unknown as AsyncDisposable & { port: number };
    const url = `http://127.0.0.72:${elsewhere.port}/root.xml`;
    for (const upnp of [{ redirects: url }, { location: url }]) {
      const { gateway, mapper, inVain } = await start({ upnp });
      await inVain;
      expect(gateway.asked).toContain("redirects" in upnp ? "GET /root.xml" : "search");
      expect(mapper.current).toBe(null);
      for (const one of open.splice(0).toReversed()) await one[Symbol.asyncDispose]();
    }
    expect(requests).toEqual([]);
  });

  test("asks before its first TCP connection", async () => {
    const allowed: number[] = [];
    const allowTcp = async (to: { port: number }): Promise<void> => void allowed.push(to.port);
    const { gateway, next } = await start({ upnp: "honest" }, { allowTcp });
    await next();
    expect(new Set(allowed)).toEqual(new Set([gateway.httpPort]));
  });

  test("ends at once where there is no router, and where its own address is gone", async () => {
    for (const localAddress of [HERE, "192.0.2.200" as IpAddress]) {
      const mapper = portMapper(
        { log: silentLogger },
        {
          gateway: "127.0.0.73" as IpAddress,
          localAddress,
          internalPort: PORT,
          onChange: () => undefined,
        },
      );
      await mapper[Symbol.asyncDispose]();
      await mapper[Symbol.asyncDispose]();
      expect(mapper.current).toBe(null);
    }
  });
});
