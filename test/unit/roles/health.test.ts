import { expect, test } from "bun:test";
import type { HiggsError } from "../../../src/base/errors.ts";
import type { Membership } from "../../../src/peer/membership.ts";
import type { Refusal } from "../../../src/peer/netmap.ts";
import { UsageError } from "../../../src/roles/config.ts";
import type { Session } from "../../../src/proto/control.ts";
import { healthOf, membershipHealth, platformHealth, relayHealth } from "../../../src/roles/health.ts";

interface Said {
  readonly trouble?: HiggsError;
  readonly refusals?: readonly Refusal[];
  readonly welcomed?: boolean;
  readonly relay?: boolean;
}

function healthWith({ trouble, refusals = [], welcomed = true, relay = true }: Said) {
  const membership = {
    trouble: trouble ?? null,
    welcomed,
    relay: { online: relay },
    map: { refusals: () => refusals },
  };
  return membershipHealth(membership as unknown as Membership).map(({ code, severity }) => `${code} ${severity}`);
}

const refusal = (code: string): Refusal => ({ code, text: "Refused.", remedy: "Look." });
const trouble = (code: string) => new UsageError("Trouble.", { code, remedy: "Mend it." });

test("healthOf() keeps the error's code, text and remedy", () => {
  expect(healthOf(trouble("x"), "low")).toEqual({ code: "x", severity: "low", text: "Trouble.", remedy: "Mend it." });
  expect(healthOf(new UsageError("Trouble.", { code: "x" }), "low").remedy).toBeNull();
});

test("membershipHealth() is empty while all is well", () => {
  expect(healthWith({})).toEqual([]);
});

test("membershipHealth() tells of a server that is away, of a relay that is down, and of what was not believed", () => {
  expect(
    healthWith({ trouble: trouble("server-unreachable"), relay: false, refusals: [refusal("identity-changed")] }),
  ).toEqual(["server-unreachable medium", "identity-changed high", "relay-lost medium"]);
  expect(healthWith({ trouble: trouble("machine-revoked") })).toEqual(["machine-revoked high"]);
  expect(healthWith({ trouble: trouble("machine-unknown") })).toEqual(["machine-unknown high"]);
});

test("membershipHealth() says nothing of the relay before there was a map", () => {
  expect(healthWith({ welcomed: false, relay: false })).toEqual([]);
});

test("membershipHealth() says a map that was refused once, and as bad as it is", () => {
  expect(healthWith({ trouble: trouble("map-rollback"), refusals: [refusal("map-rollback")] })).toEqual([
    "map-rollback high",
  ]);
});

test("relayHealth() tells of sessions whose relay is withheld, unless they go directly", () => {
  const withheld = { code: "relay-quota", text: '"home" has used up the 1 GB', untilMs: Date.UTC(2026, 11) };
  const session = (peer: string, more: object) => [peer, { peer, ...more } as unknown as Session] as const;
  const membership = {
    sessions: new Map([session("a", { withheld }), session("b", { withheld }), session("c", {})]),
    map: { get: (id: string) => (id === "a" ? { name: "home" } : undefined) },
  };
  const entries = relayHealth(membership as unknown as Membership, (peer) =>
    peer === ("b" as never) ? "direct" : "wss",
  );
  expect(entries).toEqual([
    {
      code: "relay-quota",
      severity: "high",
      text: 'Packets to "home" wait for a direct path: the server relays none, as "home" has used up the 1 GB.',
      remedy: "The relay is back at 2026-12-01T00:00:00.000Z; what would make a direct path: higgs why home",
    },
  ]);
});

test("platformHealth() says what was never tried, and nothing on Linux", () => {
  expect(platformHealth("linux")).toEqual([]);
  expect(platformHealth("macos")).toMatchObject([{ code: "platform-untested", severity: "low" }]);
});
