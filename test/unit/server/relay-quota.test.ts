import { describe, expect, test } from "bun:test";
import type { Withheld } from "../../../src/proto/control.ts";
import { RelayMeter, withheldBy } from "../../../src/server/relay/meter.ts";
import { dayOf, parseQuota, quotaSize, spanOf } from "../../../src/server/relay/quota.ts";
import { Relay } from "../../../src/server/relay/relay.ts";
import { type RelaySession, Sessions } from "../../../src/server/relay/sessions.ts";
import { RelayUsage } from "../../../src/server/relay/usage.ts";
import type { Database } from "../../../src/server/db/open.ts";
import { machineId } from "./values.ts";

const [A, B, C] = [machineId(1), machineId(2), machineId(3)];
const NOON = Date.UTC(2026, 1, 27, 12);
const DAY_MS = 86_400_000;

describe("parseQuota()", () => {
  test("reads sizes of a thousand and of 1024, by the day or the month", () => {
    expect(parseQuota("50GB/month")).toEqual({ limitBytes: 50e9, period: "month" });
    expect(parseQuota("1.5 tib/DAY")).toEqual({ limitBytes: 1.5 * 1024 ** 4, period: "day" });
    expect(parseQuota("500000B/day")).toEqual({ limitBytes: 500_000, period: "day" });
  });

  test.each(["", "50GB", "GB/month", "50/month", "-1GB/day", "50GB/year", "1kB/day", "1e9GB/day", "50GB/month "])(
    "takes %p for none",
    (text) => {
      expect(parseQuota(text)).toBeNull();
    },
  );
});

test("quotaSize() says what was typed", () => {
  const said = ["50GB/month", "1.5TB/day", "1GiB/day", "100000B/day"].map((text) => {
    const quota = parseQuota(text);
    return quota === null ? null : quotaSize(quota);
  });
  expect(said).toEqual(["50 GB", "1.5 TB", "1.074 GB", "100 kB"]);
});

test("spanOf() begins and ends with the day and the month of UTC", () => {
  expect(spanOf("day", NOON)).toEqual({ firstDay: dayOf(NOON), endMs: Date.UTC(2026, 1, 28) });
  expect(spanOf("month", NOON)).toEqual({ firstDay: dayOf(Date.UTC(2026, 1)), endMs: Date.UTC(2026, 2) });
  expect(spanOf("month", Date.UTC(2026, 11, 31, 23, 59, 59)).endMs).toBe(Date.UTC(2027, 0));
});

function scene(limitBytes: number | null) {
  const relay = new Relay();
  const sessions = new Sessions(relay.ports);
  const usage = new RelayUsage({} as Database);
  const said: [number, Withheld | null][] = [];
  const udp: [number, boolean][] = [];
  const meter = new RelayMeter({
    usage,
    quota: limitBytes === null ? null : { limitBytes, period: "day" },
    udpRelay: { withhold: (session, isWithheld) => void udp.push([session, isWithheld]) },
    nameOf: (machine) => (machine === A ? "anna" : machine === B ? "ben" : "carl"),
    onChange: (session, withheld) => void said.push([session.id, withheld]),
  });
  const open = (a = A, b = B): { session: RelaySession; relayed: (bytes: number) => void } => {
    const { session } = sessions.join(a, b);
    const { relayed } = meter.open(session, NOON);
    meter.opened(session);
    return { session, relayed };
  };
  return { meter, open, said, udp, usage };
}

describe("RelayMeter", () => {
  test("charges both ends with what each relay passed on, once", () => {
    const { meter, open } = scene(null);
    const { session, relayed } = open();
    session.legs[0].bytes = 100;
    session.legs[1].bytes = 20;
    meter.tend();
    meter.tend();
    relayed(3);
    expect([A, B, C].map((machine) => meter.usageOf(machine).bytes)).toEqual([123, 123, 0]);
    session.legs[0].bytes = 150;
    meter.close(session);
    relayed(7); // what the kernel tells after the end
    expect(meter.usageOf(A)).toEqual({ bytes: 180, period: "month", limitBytes: null, usedUp: false });
  });

  test("withholds every relay from all sessions of a machine that has used its quota up, and from no other", () => {
    const { meter, open, said, udp } = scene(1000);
    const first = open(A, B);
    const second = open(C, A);
    const other = open(B, C);
    first.session.legs[0].bytes = 999;
    meter.tend(NOON);
    expect(said).toEqual([]);
    first.relayed(1);
    // The meter of the UDP relay charges the day that is now; the test's own day is the legs'.
    first.session.legs[1].bytes = 1;
    meter.tend(NOON);
    const both = withheldBy({ limitBytes: 1000, period: "day" }, ["anna", "ben"], NOON);
    expect(said[0]).toEqual([first.session.id, both]);
    expect(both.text).toBe('"anna" and "ben" have used up the 1 kB that a machine may have relayed today');
    expect(said.map(([id]) => id)).toEqual([first.session.id, second.session.id, other.session.id]);
    expect(udp).toEqual(said.map(([id]) => [id, true]));
    expect([...first.session.legs, ...second.session.legs].every((leg) => leg.isWithheld)).toBe(true);
    meter.tend(NOON);
    expect(said).toHaveLength(3); // told once
  });

  test("gives the relays back when the next day begins, and begins a session of a used-up machine withheld", () => {
    const { meter, open, said, udp } = scene(1000);
    const { session } = open();
    session.legs[0].bytes = 1000;
    meter.tend(NOON);
    const late = open(A, C);
    expect(meter.of(late.session.id).withheld?.untilMs).toBe(Date.UTC(2026, 1, 28));
    expect(late.session.legs[0].isWithheld).toBe(true);
    expect(udp.at(-1)).toEqual([late.session.id, true]);
    meter.tend(NOON + DAY_MS);
    expect(said.slice(-2).map(([, withheld]) => withheld)).toEqual([null, null]);
    expect(session.legs[0].isWithheld || late.session.legs[1].isWithheld).toBe(false);
  });
});
