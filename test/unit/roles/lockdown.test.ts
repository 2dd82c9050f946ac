// A client's kill switch on the way down.
import { expect, test } from "bun:test";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLogger } from "../../../src/base/log.ts";
import type { ClientFirewall, ClientFirewallWanted } from "../../../src/net/firewall/client.ts";
import { LinksUnreadable } from "../../../src/net/links.ts";
import { holdLockdown } from "../../../src/roles/lockdown.ts";

test("bug: a link that went away while it was read kept a client on its way down from closing", async () => {
  const applied: ClientFirewallWanted[] = [];
  const clientFirewall = {
    apply: async (wanted: ClientFirewallWanted) => void applied.push(wanted),
  } as unknown as ClientFirewall;
  const os = {
    clientFirewall,
    firewallTrouble: null,
    block: () => Promise.reject(new Error("not asked for")),
    localNetworks: () => Promise.reject(new LinksUnreadable("Cannot read the links.", { code: "links-unreadable" })),
  };
  const held = await holdLockdown({ os, stateDir: join(tmpdir(), "higgs-none"), log: silentLogger });
  await held.close();
  expect(applied).toEqual([{ policy: { kind: "disconnecting", near: { bridges: [], lan: null } }, egress: [] }]);
});
