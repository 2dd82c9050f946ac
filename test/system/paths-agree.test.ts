// After any trouble both ends use the same best path again, whatever their routers are.
import { describe, expect, test } from "bun:test";
import { advance, SERVER, until } from "./fake-internet.ts";
import { NAT_KINDS } from "./fake-nat.ts";
import { kinds, scene, useLittleInternet } from "./path-scene.ts";

useLittleInternet();

/** More would be bad luck of one in thousands: most tries succeed. */
const GUESSES = 4;
const open = NAT_KINDS.filter((kind) => kind !== "udp-block");

describe("openPaths() agrees in the end", () => {
  for (const [i, natA] of open.entries()) {
    // Each with three others, so that every kind meets easy and hard ones.
    for (const natB of [0, 3, 5].map((more) => open[(i + more) % open.length] ?? natA)) {
      const isGuessed = natA.startsWith("sym-") !== natB.startsWith("sym-");
      test(`${natA} and ${natB}`, async () => {
        const made = await scene(natA, natB);
        const traffic = [made.a.traffic(40), made.b.traffic(60)];
        await advance(9_000, 10); // fresh ports come before guessed ones
        const before = kinds(made);
        for (let turn = 0; turn < 8; turn++) {
          const [toServer, fromA, fromB] = [0.3, 0.4, 0.4].map((share) => made.net.random() < share);
          if (made.net.random() < 0.3) made.a.options.nat?.forget();
          made.net.delayMs = ({ from, to }) => {
            const isServer = from.address === SERVER || to.address === SERVER;
            const isLost = isServer ? toServer : from.address === "198.51.100.1" ? fromA : fromB;
            return isLost === true ? null : 10;
          };
          await advance(500 + 3_000 * made.net.random(), 10);
        }
        made.net.delayMs = () => 10;
        await advance(100_000, 20);
        if (isGuessed) {
          // Ports are guessed again only minutes after it was in vain, and every try is a matter of luck.
          await until(() => kinds(made) === before, GUESSES * 360_000, 20);
          await advance(20_000, 20);
        }
        for (const one of traffic) one.stop();
        await advance(200);
        const arrived = [made.a.arrived.length, made.b.arrived.length];
        made.a.sendPacket();
        made.b.sendPacket();
        await advance(100);
        expect(kinds(made)).toBe(before);
        expect([made.a.arrived.length, made.b.arrived.length]).toEqual(arrived.map((count) => count + 1));
        // What is said is what is done.
        expect([made.a.ways.at(-1), made.b.ways.at(-1)]).toEqual([made.a.endpoint ?? "", made.b.endpoint ?? ""]);
      });
    }
  }
});
