// Commands typed right after one another, as scripts do it.
import { expect, test } from "bun:test";
import { smallInternet } from "../../src/lab/small-internet.ts";
import {
  clientUp,
  connectClient,
  fetchPage,
  HIGGS,
  invite,
  startNetworkLab,
  startNode,
  startServer,
} from "./network.ts";

const ROUNDS = 5;

test("client up right after client down finds no ending process, and connects", async () => {
  await using lab = await startNetworkLab(smallInternet());
  const laptop = lab.host("laptop");
  await startServer(lab);
  await startNode(lab.host("home-pc"), { join: await invite(lab, "node") });
  await connectClient(lab, "laptop");
  for (let round = 1; round <= ROUNDS; round++) {
    await laptop.execOrThrow([HIGGS, "client", "down"]);
    const up = await clientUp(laptop);
    expect([round, up.code, up.stderr]).toEqual([round, 0, ""]);
    expect(await fetchPage(laptop, "http://203.0.113.80/")).toBe("203.0.113.7");
  }
});
