import { afterEach, beforeEach, expect, jest, test } from "bun:test";
import { silentLogger } from "../../../src/base/log.ts";
import type { Service } from "../../../src/base/service.ts";
import { controlStream } from "../../../src/peer/control-stream.ts";
import { relayLink } from "../../../src/peer/relay-link.ts";
import { ServerRefused } from "../../../src/peer/server-door.ts";
import type { ServerLink } from "../../../src/peer/server-link.ts";

beforeEach(() => {
  jest.useFakeTimers();
});
afterEach(() => {
  jest.useRealTimers();
});

/** Of the link the loops need only the session, which is refused here with 429 and `Retry-After: 30`. */
function refusingLink(): { readonly link: ServerLink; readonly dials: () => number } {
  let dials = 0;
  const session = async (): Promise<never> => {
    dials++;
    throw new ServerRefused("Cannot answer now: too many requests from there.", {
      code: "rate-limited",
      detail: { status: 429, retryAfterMs: 30_000 },
    });
  };
  return { link: { session, invalidate: () => undefined } as unknown as ServerLink, dials: () => dials };
}

async function pass(ms: number): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
  jest.advanceTimersByTime(ms);
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
}

const ignore = (): undefined => undefined;
const loops: readonly [string, (link: ServerLink) => Service][] = [
  [
    "controlStream()",
    (link) =>
      controlStream(
        { link, version: "0", isUrgent: () => false, log: silentLogger },
        { onWelcome: ignore, onMessage: ignore, onDown: ignore, onRefused: ignore },
      ),
  ],
  ["relayLink()", (link) => relayLink({ link, log: silentLogger }, { path: () => "/", onChange: ignore })],
];

test.each(loops)(
  "%s waits as long as the server says before it dials again: it asked every second",
  async (_, open) => {
    const { link, dials } = refusingLink();
    const service = open(link);
    await pass(29_999);
    expect(dials()).toBe(1);
    await pass(2_001);
    expect(dials()).toBe(2);
    await pass(28_000);
    expect(dials()).toBe(2);
    const disposing = service[Symbol.asyncDispose]();
    await pass(0);
    await disposing;
  },
);
