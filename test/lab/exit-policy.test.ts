// What the owner of an exit decides: enforced at once and in both families, no packet lost that is allowed, signed, and seen by clients before they choose.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { LabProcess } from "../../src/lab/process.ts";
import { answered, HOME4, INTERNET, NODE_FLAGS, PORT, type Scene, startScene, WEB4, WEB6 } from "./exit-scene.ts";
import { exitMechanisms } from "./exit-mechanism.ts";
import { until } from "./harness.ts";
import { stream, tcp, udp } from "./net-hosts.ts";
import { goDirect, HIGGS, nodeDown, nodeStatus, startNode } from "./network.ts";

const START_MS = 60_000;
const MAIL = { mail: tcp(WEB4, 25), "mail, 6": tcp(WEB6, 25) };
const NAS = {
  nas: tcp("192.168.1.20", 22),
  "nas, udp": udp("192.168.1.20", 22),
  "nas, 6": tcp("2001:db8:7:1::20", 22),
};
const ROUTER = { router: tcp("192.168.1.1", 80), "router, 6": tcp("2001:db8:7:1::1", 80) };
const METADATA = { metadata: tcp("169.254.169.254", 80) };

interface Policy {
  readonly mail: boolean;
  readonly ports: unknown;
  readonly closed: readonly string[];
  readonly opened: readonly { readonly prefix: string; readonly forAll: boolean }[];
  readonly logDays: number;
}

describe.each([...exitMechanisms("nft")])("the exit's policy by $name", (mechanism) => {
  let scene: Scene;
  let node: LabProcess;
  const host = (name: string) => scene.lab.host(name);
  const names = (probes: object) => Object.keys(probes);
  const set = (...choices: readonly string[]) => host("home-pc").exec([HIGGS, "node", "set", ...choices]);
  const choose = async (...choices: readonly string[]) => {
    const said = await set(...choices);
    if (said.code !== 0) throw new Error(said.stderr);
  };
  const seenBy = async (client: string): Promise<Policy> => {
    const list = await host(client).execOrThrow([HIGGS, "client", "exit", "list", "--json"]);
    return (JSON.parse(list) as { exits: { policy: Policy }[] }).exits[0]?.policy as Policy;
  };
  /** The server passes changes on together, after a while. */
  const told = (client: string, isSo: (policy: Policy) => boolean) =>
    until(async () => isSo(await seenBy(client)), { timeoutMs: 20_000, what: `the policy at ${client}` });
  const becomes = (probes: Parameters<typeof answered>[1], wanted: readonly string[], client = "laptop") =>
    until(async () => String(await answered(host(client), probes)) === String(wanted), {
      what: `${client} to reach ${wanted.join(", ") || "nothing"} of ${names(probes).join(", ")}`,
    });

  beforeAll(async () => {
    scene = await startScene(mechanism);
    ({ node } = scene);
  }, START_MS);
  afterAll(async () => {
    await scene?.lab[Symbol.asyncDispose]();
  });

  test("is seen by clients before they choose: no mail, nothing of the home, no record", async () => {
    expect(await seenBy("laptop")).toEqual({
      mail: false,
      ports: null,
      closed: [],
      opened: [],
      filtersNames: false,
      logDays: 0,
      isWhole: true,
    } as Policy);
    const list = await host("laptop").execOrThrow([HIGGS, "client", "exit", "list"]);
    expect(list).toContain("everything goes out, but mail (port 25)");
    expect(list).toContain("keeps no record of connections");
    expect(await answered(host("laptop"), { ...INTERNET, ...MAIL, ...NAS, ...ROUTER, ...METADATA })).toEqual(
      names(INTERNET),
    );
  });

  test("opens and closes mail, ports, destinations and the home without a lost packet of what is allowed", async () => {
    const running = await stream(host("laptop"), udp(WEB4, PORT));
    await choose("exit-mail=yes");
    await becomes(MAIL, names(MAIL));
    await choose("exit-ports=25,8080");
    await becomes({ "internet, tcp": tcp(WEB4, PORT), ...MAIL }, ["internet, tcp", ...names(MAIL)]);
    await choose("exit-ports=udp/8080", "exit-mail=");
    await becomes({ ...INTERNET, ...MAIL }, ["internet, udp", "internet, udp 6"]);
    await choose("exit-ports=", `exit-deny=${WEB6}`);
    await becomes(INTERNET, ["internet, tcp", "internet, udp"]);
    await choose("exit-deny=", "exit-lan=192.168.1.20@laptop,2001:db8:7:1::20@laptop");
    await becomes({ ...INTERNET, ...NAS }, [...names(INTERNET), ...names(NAS)]);
    const { sent, lost } = await running.stop();
    console.log(`five changes of the policy: ${lost} of ${sent} datagrams lost at 100 a second`);
    expect(sent).toBeGreaterThan(100);
    expect(lost).toBe(0);
  });

  test("opens a part of the home for the client that was named, and for nobody else; the router and metadata stay closed", async () => {
    expect(await answered(host("laptop"), { ...NAS, ...ROUTER, ...METADATA })).toEqual(names(NAS));
    expect(await answered(host("tablet"), { ...NAS, ...ROUTER, ...METADATA })).toEqual([]);
    await told("tablet", (policy) => policy.opened.length === 2);
    expect((await seenBy("tablet")).opened).toEqual([
      { prefix: "192.168.1.20/32", forAll: false },
      { prefix: "2001:db8:7:1::20/128", forAll: false },
    ]);
    await choose("exit-lan=192.168.1.0/24");
    await becomes({ nas: tcp("192.168.1.20", 22), router: tcp("192.168.1.1", 80) }, ["nas", "router"], "tablet");
    // Not the node itself, by whichever address, nor what has no business in any network.
    const never = { node: tcp("192.168.1.10", 22), "the router's public address": tcp(HOME4, 80), ...METADATA };
    expect(await answered(host("tablet"), { ...never, nas: tcp("192.168.1.20", 22) })).toEqual(["nas"]);
    await choose("exit-lan=");
    await becomes(NAS, [], "tablet");
  });

  test("refuses what cannot be, names the value, and changes nothing", async () => {
    await told("laptop", ({ mail, ports, opened }) => !mail && ports === null && opened.length === 0);
    const before = await seenBy("laptop");
    for (const [choice, word] of [
      ["exit-ports=http", '"http" is no port'],
      ["exit-deny=web.example", '"web.example"'],
      ["exit-lan=169.254.169.254", "never opened"],
      ["exit-lan=0.0.0.0/0", "wider than any home"],
      ["exit-log=200d", "number of days"],
      ["exit-mail=perhaps", "perhaps"],
      ["exit-colour=blue", "exit-mail"],
      ["state=/root", "exit-mail"],
      ["exit-mail", "KEY=VALUE"],
    ] as const) {
      const said = await set("exit-mail=yes", choice);
      expect([choice, said.code]).toEqual([choice, 2]);
      expect(said.stderr).toContain(word);
    }
    expect(await seenBy("laptop")).toEqual(before);
    expect(await answered(host("laptop"), MAIL)).toEqual([]);
  });

  test("keeps a record only where the owner chose one, tells clients, and deletes it with the choice; without nft it refuses to", async () => {
    if (mechanism.name !== "nft") {
      const refused = await set("exit-mail=yes", "exit-log=7d");
      expect(refused.code).not.toBe(0);
      expect(refused.stderr).toContain("Cannot keep connections on record");
      expect(refused.stderr).toContain("exit-log=off");
      expect(await seenBy("laptop")).toMatchObject({ mail: false, logDays: 0 });
      return;
    }
    const pc = host("home-pc");
    const record = async () =>
      (await pc.exec(["sh", "-c", "cat /var/lib/higgs/node/connections/*.jsonl"])).stdout.split("\n").filter(Boolean);
    expect(await record()).toEqual([]);
    await choose("exit-log=7d");
    await until(async () => (await seenBy("laptop")).logDays === 7, { what: "the policy at the client" });
    expect(await host("laptop").execOrThrow([HIGGS, "client", "exit", "list"])).toContain("connections for 7 days");
    await until(async () => (await pc.exec(["nft", "list", "table", "inet", "higgs_node_log"])).code === 0);
    await answered(host("laptop"), { ...INTERNET, ...MAIL });
    await answered(host("tablet"), { "internet, tcp": tcp(WEB4, PORT) });
    const lines = await until(
      async () => {
        const all = (await record()).map(
          (line) => JSON.parse(line) as { client: string; protocol: string; to: string },
        );
        return all.some((line) => line.client === "tablet") && all.length >= 5 ? all : null;
      },
      { timeoutMs: 25_000, what: "the record" },
    );
    const told = lines.map(({ client, protocol, to }) => `${client} ${protocol} ${to}`).toSorted();
    for (const line of [
      `laptop tcp ${WEB4}:${PORT}`,
      `laptop udp ${WEB4}:${PORT}`,
      `laptop tcp [${WEB6}]:${PORT}`,
      `laptop udp [${WEB6}]:${PORT}`,
      `tablet tcp ${WEB4}:${PORT}`,
    ]) {
      expect(told).toContain(line);
    }
    expect(told.filter((line) => line.endsWith(":25"))).toEqual([]); // what was refused is no connection
    expect(Object.keys(lines[0] ?? {})).toEqual(["at", "client", "protocol", "to"]);
    expect((await nodeStatus(pc)).exit).toHaveProperty("record", "/var/lib/higgs/node/connections");
    await choose("exit-log=off");
    await until(async () => (await record()).length === 0, { what: "the end of the record" });
    const hasTable = async (): Promise<boolean> =>
      (await pc.exec(["nft", "list", "table", "inet", "higgs_node_log"])).code === 0;
    await until(async () => !(await hasTable()), { what: "the end of its table" });
  });

  test("holds after a restart, and gives way to flags", async () => {
    const pc = host("home-pc");
    await choose("exit-mail=yes", "exit-deny=198.51.100.0/24");
    await nodeDown(pc, node);
    // Without a running node as well.
    await choose("exit-log=3d");
    node = await startNode(pc, { flags: [...NODE_FLAGS, "--exit-log", "off"] });
    await until(async () => (await seenBy("laptop")).closed.length === 1, { what: "the policy at the client" });
    expect(await seenBy("laptop")).toMatchObject({ mail: true, closed: ["198.51.100.0/24"], logDays: 0 });
    const shown = await pc.execOrThrow([HIGGS, "node", "get"]);
    expect(shown).toMatch(/exit-mail +yes +chosen/);
    expect(shown).toMatch(/exit-log +off +flag/);
    const pinned = await set("exit-log=1d");
    expect([pinned.code, pinned.stderr]).toEqual([2, expect.stringContaining("--exit-log") as unknown as string]);
    await goDirect(host("laptop"), HOME4);
    await becomes(MAIL, names(MAIL));
  }, 120_000);
});
