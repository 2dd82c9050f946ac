// What the server could read of a client's traffic: nothing of the page, its name or the question for it, on its wires or in its memory.
import { expect, test } from "bun:test";
import type { Packet } from "../../src/lab/pcap.ts";
import { smallInternet, WEB_NAME } from "../../src/lab/small-internet.ts";
import { askDns, dns } from "./dns-hosts.ts";
import { until } from "./harness.ts";
import { connectClient, HIGGS, invite, RELAYED_FLAGS, startNetworkLab, startNode, startServer } from "./network.ts";
import { isInMemory, pidIn } from "./process-memory.ts";

const MARKER = "marker-7f3a9c51-of-this-very-page";
/** Each label has its length before it (RFC 1035 section 3.1). */
const WIRE_NAME = WEB_NAME.split(".")
  .map((label) => String.fromCharCode(label.length) + label)
  .join("");
/** What a reader would look for: the body, the path, the protocol, the name as text and as DNS writes it. */
const SIGNS: Readonly<Record<string, string>> = {
  marker: MARKER,
  http: "HTTP/1.1 200",
  request: "POST /sink",
  name: WEB_NAME,
  question: WIRE_NAME,
};

function signsIn(packets: readonly Packet[]): readonly string[] {
  const all = Buffer.concat(packets.map((packet) => packet.bytes));
  return Object.entries(SIGNS)
    .filter(([, sign]) => all.includes(Buffer.from(sign, "latin1")))
    .map(([name]) => name);
}

test("the server sees ciphertext alone: no page, no HTTP, no name, neither on its wires nor in its memory", async () => {
  await using lab = await startNetworkLab(smallInternet());
  const [laptop, vps] = [lab.host("laptop"), lab.host("vps")];
  await startServer(lab);
  const serverPid = pidIn(vps, [HIGGS, "server"]);
  await startNode(lab.host("home-pc"), { join: await invite(lab, "node") });
  await connectClient(lab, "laptop", ...RELAYED_FLAGS);

  await using atServer = await vps.sniff("any");
  await using atWeb = await lab.host("web").sniff("eth0");
  await using atNode = await lab.host("home-pc").sniff("higgsn0");
  const url = `http://${WEB_NAME}/sink`;
  for (let round = 0; round < 20; round++) {
    const sent = await laptop.execOrThrow(["curl", "-sS", "-4", "--max-time", "20", "-d", `${MARKER} ${MARKER}`, url]);
    expect(JSON.parse(sent)).toEqual({ bytes: 2 * MARKER.length + 1 });
  }
  await askDns(laptop, [dns("udp", "8.8.8.8", WEB_NAME), dns("tcp", "8.8.8.8", WEB_NAME)]);
  // Positive control: the same reader finds every sign where the page is in plain text.
  await until(() => signsIn(atNode.packets()).length === Object.keys(SIGNS).length, { what: "all signs at the node" });
  await until(() => signsIn(atWeb.packets()).length === 4, { what: "the signs at the web server" });
  expect(signsIn(atWeb.packets())).toEqual(["marker", "http", "request", "name"]);
  const carried = (): number =>
    atServer
      .packets()
      .filter((packet) => packet.text.includes("203.0.113.10:443") || packet.text.includes("[2001:db8:10::10]:443"))
      .length;
  await until(() => carried() > 100, { what: "the traffic, which came by here" });
  expect(signsIn(atServer.packets())).toEqual([]);

  expect(isInMemory(serverPid, MARKER)).toBe(false);
  expect(isInMemory(serverPid, "203.0.113.10:443")).toBe(true); // positive control: what it does know is found
});
