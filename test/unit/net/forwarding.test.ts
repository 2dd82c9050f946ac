// Forwarding over kernel settings in memory.
import { describe, expect, test } from "bun:test";
import { silentLogger } from "../../../src/base/log.ts";
import { enableForwarding, forwardingFence } from "../../../src/net/forwarding.ts";
import { memoryJournal } from "./memory-journal.ts";
import { memorySysctl } from "./memory-sysctl.ts";

const KERNEL = {
  "net.ipv4.ip_forward": "0",
  "net.ipv6.conf.all.forwarding": "0",
  "net.ipv6.conf.eth0.accept_ra": "1",
  "net.ipv6.conf.wlan0.accept_ra": "0",
};
const BOTH = { uplinks: ["eth0", "wlan0", "ppp0"], ipv6: true };

describe("enableForwarding()", () => {
  test("keeps the advertised default route before it forwards IPv6", async () => {
    const sysctl = memorySysctl(KERNEL);
    expect(await enableForwarding(BOTH, { sysctl, log: silentLogger })).toEqual([]);
    expect(sysctl.written).toEqual([
      "net.ipv4.ip_forward=1",
      "net.ipv6.conf.eth0.accept_ra=2",
      "net.ipv6.conf.all.forwarding=1",
    ]);
  });

  test("writes nothing that is as wanted, so that a container's settings will do", async () => {
    const sysctl = memorySysctl({ "net.ipv4.ip_forward": "1" });
    sysctl.refuses.add("net.ipv4.ip_forward");
    expect(await enableForwarding({ uplinks: ["eth0"], ipv6: false }, { sysctl, log: silentLogger })).toEqual([]);
    expect(sysctl.written).toEqual([]);
  });

  test("does not forward IPv6 at the price of the default route", async () => {
    const sysctl = memorySysctl(KERNEL);
    sysctl.refuses.add("net.ipv6.conf.eth0.accept_ra");
    expect(await enableForwarding(BOTH, { sysctl, log: silentLogger })).toEqual([
      'IPv6 is not forwarded: "net.ipv6.conf.eth0.accept_ra" cannot be set to 2, and the default route would be lost.',
    ]);
    expect(sysctl.values.get("net.ipv6.conf.all.forwarding")).toBe("0");
  });

  test("says what is missing, and does the rest", async () => {
    const sysctl = memorySysctl(KERNEL);
    sysctl.refuses.add("net.ipv4.ip_forward").add("net.ipv6.conf.all.forwarding");
    expect(await enableForwarding(BOTH, { sysctl, log: silentLogger })).toEqual([
      'IPv4 is not forwarded: "net.ipv4.ip_forward" cannot be set to 1.',
      'IPv6 is not forwarded: "net.ipv6.conf.all.forwarding" cannot be set to 1.',
    ]);
    const four = memorySysctl({ "net.ipv4.ip_forward": "0" });
    expect(await enableForwarding(BOTH, { sysctl: four, log: silentLogger })).toEqual([
      "IPv6 is not forwarded: this kernel has none.",
    ]);
  });
});

describe("forwardingFence()", () => {
  const OURS = { kind: "sysctl", key: "net.ipv4.ip_forward", before: "0", ours: "1" } as const;
  const links = ["docker0", "eth0"];

  test("a home PC that forwards for us alone is no router for its neighbours", async () => {
    const interfaces = () => Promise.resolve([...links]);
    const off = forwardingFence({ sysctl: memorySysctl(KERNEL), journal: memoryJournal(), interfaces });
    expect(await off({ ipv6: false })).toEqual({ fence4: links, fence6: [] });
    expect(await off({ ipv6: true })).toEqual({ fence4: links, fence6: links });
    // An earlier process switched IPv4's on.
    const sysctl = memorySysctl({ ...KERNEL, "net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1" });
    const again = forwardingFence({ sysctl, journal: memoryJournal([OURS]), interfaces });
    expect(await again({ ipv6: true })).toEqual({ fence4: links, fence6: [] });
  });

  test("leaves a machine alone that forwards anyway, and interfaces that come later", async () => {
    const names = [...links];
    const journal = memoryJournal();
    const sysctl = memorySysctl({ ...KERNEL, "net.ipv4.ip_forward": "1" });
    const fence = forwardingFence({ sysctl, journal, interfaces: () => Promise.resolve([...names]) });
    expect(await fence({ ipv6: false })).toEqual({ fence4: [], fence6: [] });
    expect((await fence({ ipv6: true })).fence6).toEqual(links);
    names.push("virbr0");
    expect((await fence({ ipv6: true })).fence6).toEqual(links);
  });
});
