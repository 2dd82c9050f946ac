// A Windows machine's network as PowerShell tells it, and what higgs takes from it.
import { describe, expect, test } from "bun:test";
import { windowsLinks, windowsLocalNetworks, windowsUplinks } from "../../../../src/net/windows-network.ts";
import { listedRoutes, routeArgv, wantedRoutes } from "../../../../src/net/routes/windows.ts";
import { ROUTES } from "./client-scene.ts";
import { atHome } from "./fake-windows.ts";

describe("windowsLinks()", () => {
  test("has the ways out, the prefixes on the links, and the addresses, and nothing of loopback", () => {
    const links = windowsLinks(atHome());
    expect(
      links.uplinks.map(({ interface: name, family, gateway, metric }) => [name, family, gateway, metric]),
    ).toEqual([
      ["Wi-Fi", 4, "192.168.7.1", 40],
      ["Wi-Fi", 6, "fe80::1", 296],
    ] as never);
    expect(links.connected).toEqual([
      { interface: "Wi-Fi", prefix: "192.168.7.0/24" },
      { interface: "Wi-Fi", prefix: "fd66:1::/64" },
    ] as never);
    expect(links.addresses.map(({ address, scope, temporary }) => [address, scope, temporary])).toEqual([
      ["192.168.7.20", "global", false],
      ["fd66:1::20", "global", true],
      ["fe80::20", "link", false],
    ] as never);
    expect(links.mtus.get("Wi-Fi")).toBe(1500);
  });

  test("sees another tunnel's halves as a way out, and its own never", () => {
    const network = atHome();
    for (const family of ["IPv4", "IPv6"] as const) {
      network.interfaces.push({
        index: 42,
        alias: "higgs0",
        family,
        metric: 5,
        mtu: 1420,
        forwarding: "Disabled",
        connected: "Connected",
      });
    }
    network.routes.push({ index: 42, prefix: "0.0.0.0/1", nextHop: "0.0.0.0", metric: 1 });
    network.routes.push({ index: 23, prefix: "128.0.0.0/1", nextHop: "172.20.0.1", metric: 0 });
    const names = windowsUplinks(network).map((uplink) => uplink.interface);
    expect(names).not.toContain("higgs0");
    expect(names).toContain("vEthernet (Default Switch)");
  });

  test("leaves out an interface without a cable", () => {
    const network = atHome();
    network.routes.push({ index: 7, prefix: "0.0.0.0/0", nextHop: "10.0.0.1", metric: 0 });
    expect(windowsUplinks(network).map((uplink) => uplink.index)).not.toContain(7);
  });
});

describe("windowsLocalNetworks()", () => {
  test("takes private prefixes alone for the LAN, and the private gateway for the router", () => {
    const network = atHome();
    network.routes.push({ index: 12, prefix: "198.51.100.0/24", nextHop: "0.0.0.0", metric: 256 });
    network.routes.push({ index: 12, prefix: "10.0.0.0/8", nextHop: "0.0.0.0", metric: 256 });
    const near = windowsLocalNetworks(windowsLinks(network));
    expect(near).toEqual({
      bridges: [],
      bridgePrefixes: [],
      lan: ["192.168.7.0/24", "fd66:1::/64"],
      outward: ["Wi-Fi"],
      routers: ["192.168.7.1"],
    } as never);
  });
});

describe("wantedRoutes()", () => {
  const up = () => {
    const network = atHome();
    network.interfaces.push({
      index: 42,
      alias: "higgs0",
      family: "IPv4",
      metric: 5,
      mtu: 1420,
      forwarding: "Disabled",
      connected: "Connected",
    });
    return network;
  };

  test("has no IPv6 route where the tunnel has no IPv6, and no way past it without a way out", () => {
    const network = { ...up(), routes: [] };
    const routes = wantedRoutes(ROUTES, network, 5270);
    expect(routes.map(({ prefix }) => prefix)).toEqual(["10.83.0.0/16", "0.0.0.0/1", "128.0.0.0/1"] as never);
  });

  test("leads only the network's own prefixes into the tunnel without an exit", () => {
    const routes = wantedRoutes({ ...ROUTES, families: { 4: "own", 6: "own" }, carrier: [] }, up(), 5270);
    expect(routes.map(({ prefix }) => prefix)).toEqual(["10.83.0.0/16"] as never);
  });

  test("knows again what it made, and nobody else's", () => {
    const network = up();
    const routes = wantedRoutes(ROUTES, network, 5270);
    for (const { prefix, index, nextHop, metric } of routes)
      network.routes.push({ prefix, index, nextHop: nextHop ?? "0.0.0.0", metric });
    network.routes.push({ prefix: "10.83.0.2/32", index: 42, nextHop: "0.0.0.0", metric: 256 });
    expect(listedRoutes(network, { interface: "higgs0", ownMetric: 5270 })).toEqual(routes);
    expect(listedRoutes(atHome(), { interface: "higgs0", ownMetric: 5270 })).toEqual([]);
  });

  test("names an interface by its number alone, so that no name of one gets into a command", () => {
    const [route] = wantedRoutes(ROUTES, up(), 5270);
    if (route === undefined) throw new Error("there is no route");
    for (const word of routeArgv("add", route)) expect(word).toMatch(/^[a-z0-9=./:]+$/);
  });
});
