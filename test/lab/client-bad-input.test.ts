// What bad input, bad servers and bad machines get: a sentence with the value, what mends it, and the exit code; nothing dies, nothing changes.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import type { LabProcess } from "../../src/lab/process.ts";
import type { ExecResult } from "../../src/lab/spawn.ts";
import {
  higgs,
  HIGGS,
  higgsOrThrow,
  invite,
  inviteIn,
  startClientLab,
  startNetwork,
  untilBrowses,
} from "./client-lab.ts";
import { giveBack, hideIptables } from "./mechanisms.ts";
import { snapshot, until } from "./harness.ts";

const MINUTE = 60_000;
const BUN = "/usr/local/bin/bun";
let lab: Lab;
let laptop: LabHost;
let vps: LabHost;
let home: LabHost;

beforeAll(async () => {
  lab = await startClientLab();
  await startNetwork(lab);
  [laptop, vps, home] = [lab.host("laptop"), lab.host("vps"), lab.host("home-pc")];
}, MINUTE);

afterAll(async () => {
  await lab[Symbol.asyncDispose]();
}, MINUTE);

/** Without secrets, and each part of the answer in it. */
function expectRefusal(result: ExecResult, code: number, ...parts: readonly string[]): void {
  for (const part of parts) expect(result.stderr).toContain(part);
  expect({ code: result.code, stderr: result.stderr }).toEqual({ code, stderr: result.stderr });
  expect(result.stderr).not.toMatch(/\n\s+at |#AQ/); // no stack, no invite
}

let places = 0;
/** In a state folder of its own, as the laptop's has a machine. */
function join(text: string, ...flags: readonly string[]): Promise<ExecResult> {
  return joinOn("laptop", text, ...flags);
}

/** Elsewhere, as five a minute may enrol from one address. */
function joinOn(host: string, text: string, ...flags: readonly string[]): Promise<ExecResult> {
  return higgs(lab.host(host), "client", "join", "--state", `/root/place-${places++}`, text, ...flags);
}

describe("an invite", () => {
  test(
    "that is mistyped, cut, nothing like one, empty, or not to be read is refused as it is typed",
    async () => {
      const good = await invite(lab, "client");
      const again = "Copy the whole line again";
      for (const at of [good.indexOf("#") + 3, good.length - 20, good.length - 1]) {
        const typed = good.slice(0, at) + (good[at] === "A" ? "B" : "A") + good.slice(at + 1);
        expectRefusal(await join(typed), 2, "Cannot read the invite", again);
      }
      expectRefusal(await join(good.slice(0, -9)), 2, "the part after #", again);
      for (const text of ["hello", "https://203.0.113.10/#x", "higgs://", "-"]) {
        expectRefusal(await join(text), 2, "does not look like higgs://", again);
      }
      expectRefusal(await join("file:/root/none"), 2, "/root/none");
      await laptop.writeFile("/root/invite", `\n  ${good}\n`);
      expect((await join("file:/root/invite", "--name", "from-a-file")).code).toBe(0);
    },
    MINUTE,
  );

  test(
    "that is used, expired, taken back by its number of uses, or for the other role is refused",
    async () => {
      const brief = await invite(lab, "client", "--expires", "1s");
      const made = performance.now();
      const once = await invite(lab, "client");
      expect((await joinOn("web", once, "--name", "once")).code).toBe(0);
      expectRefusal(await joinOn("web", once, "--name", "twice"), 4, "was used already", "higgs server invite");
      const names = [
        ["first", 0],
        ["second", 0],
        ["third", 4],
      ] as const;
      const two = await invite(lab, "client", "--uses", "2");
      for (const [name, code] of names) {
        expect((await joinOn("dns", two, "--name", name)).code).toBe(code);
      }
      expectRefusal(
        await joinOn("web", await invite(lab, "node")),
        2,
        "this invite is for a node",
        "higgs server invite client",
      );
      await until(() => performance.now() - made > 1_100);
      expectRefusal(await joinOn("vps", brief), 4, "has expired", "higgs server invite");
    },
    MINUTE,
  );

  test(
    "cannot be made with a role, a number of uses or a duration that is none",
    async () => {
      expectRefusal(await higgs(vps, "server", "invite", "toaster"), 2, '"toaster"', "higgs server invite node");
      expectRefusal(await higgs(vps, "server", "invite", "client", "--uses", "0"), 2, '"0"');
      expectRefusal(await higgs(vps, "server", "invite", "client", "--expires", "soon"), 2, '"soon"', "1h");
    },
    MINUTE,
  );
});

test(
  "a name that is taken or no hostname is refused with another to take",
  async () => {
    const unused = await invite(lab, "client");
    expectRefusal(await joinOn("home-nas", unused, "--name", "home-pc"), 1, '"home-pc"', "--name");
    expectRefusal(
      await joinOn("home-nas", unused, "--name", "Mein Läptop!"),
      2,
      '"Mein Läptop!"',
      "--name mein-l-ptop",
    );
    expectRefusal(await joinOn("home-nas", unused, "--name", "-"), 2, '"-"');
    expect((await joinOn("home-nas", unused, "--name", "still-good")).code).toBe(0);
  },
  MINUTE,
);

/** A second server on the VPS, whose invites name whatever address. */
async function serverAt(publicName: string): Promise<LabProcess> {
  const place = `/root/other-${places++}`;
  const flags = ["--state", place, "--run", place, "--listen", "[::]:8443", "--stun-port", "3999"];
  const server = await vps.spawn([HIGGS, "server", ...flags, "--public", publicName]);
  await server.waitForLine(/higgs server is running/);
  return server;
}

describe("a server", () => {
  const wrong: Readonly<Record<string, readonly [string, number, string]>> = {
    "that does not answer": ["203.0.113.99:443", 5, "does not answer"],
    "whose port is closed": ["203.0.113.10:9", 5, "does not answer"],
    "whose name nobody knows": ["nobody.lab.example:443", 5, "does not resolve"],
    "that is a web server with TLS": ["203.0.113.53:443", 1, "Cannot trust"],
    "that is a web server without TLS": ["203.0.113.80:80", 1, "does not speak TLS"],
    "that belongs to another network": ["203.0.113.10:443", 1, "it belongs to another network"],
  };
  for (const [what, [address, code, sentence]] of Object.entries(wrong)) {
    test(
      `${what} is refused by its address, and nothing is enrolled`,
      async () => {
        await using server = await serverAt(address);
        const text = inviteIn(await server.waitForLine(/higgs client up --join/));
        expectRefusal(await join(text), code, address, sentence, "→");
        const file = `/root/place-${places - 1}/enrolment.json`;
        expect((await laptop.exec(["ls", file])).code).not.toBe(0);
      },
      MINUTE,
    );
  }
});

describe("the machine", () => {
  for (const [tool, bringer] of [
    ["wg", "wireguard-tools"],
    ["nft", "nftables"],
    ["ip", "iproute2"],
  ] as const) {
    test(
      `without ${tool} is told the package, and state clean goes on without it`,
      async () => {
        const before = await snapshot(laptop, { without: ["etc and run"] });
        const path = (await laptop.execOrThrow(["sh", "-c", `readlink -f "$(command -v ${tool})"`])).trim();
        await laptop.execOrThrow(["mount", "--bind", "/etc/hostname", path]); // a file that nobody can run
        if (tool === "nft") await hideIptables(laptop); // which does its work otherwise
        try {
          for (const command of ["up", "run"]) {
            expectRefusal(
              await higgs(laptop, "client", command),
              9,
              `"${tool}"`,
              `apt install --no-install-recommends ${bringer}`,
            );
          }
          expect((await higgs(laptop, "state", "clean", "--role", "client")).code).toBe(0);
        } finally {
          await giveBack(laptop);
          await laptop.execOrThrow(["umount", path]);
        }
        expect(await snapshot(laptop, { without: ["etc and run"] })).toBe(before);
      },
      MINUTE,
    );
  }

  test(
    "lets a user without privileges change nothing, and says with what it would",
    async () => {
      const before = await snapshot(laptop, { without: ["etc and run"] });
      const nobody = (...args: readonly string[]): Promise<ExecResult> =>
        laptop.exec(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", HIGGS, ...args]);
      await laptop.execOrThrow([
        "sh",
        "-ec",
        "mkdir -m 700 /tmp/n; cp -r /var/lib/higgs/client /tmp/n/s; chown -R 65534:65534 /tmp/n",
      ]);
      const own = ["--state", "/tmp/n/s", "--run", "/tmp/n/r"];
      for (const command of ["up", "run"]) {
        expectRefusal(await nobody("client", command, ...own), 9, "CAP_NET_ADMIN", "sudo higgs client up");
      }
      for (const args of [
        ["client", "up"],
        ["client", "down"],
        ["client", "status"],
        ["state", "clean", "--role", "client"],
      ]) {
        const refused = await nobody(...args);
        expect({ args, code: refused.code, remedy: /sudo|as root/.test(refused.stderr) }).toEqual({
          args,
          code: 9,
          remedy: true,
        });
      }
      expectRefusal(await nobody("client", "join", await invite(lab, "client")), 9, "/var/lib/higgs/client");
      expect(await snapshot(laptop, { without: ["etc and run"] })).toBe(before);
    },
    MINUTE,
  );

  test(
    "that has joined nothing, runs nothing, or is asked for what it does not know says so by its exit code",
    async () => {
      expectRefusal(await higgs(laptop, "client", "status"), 3, "not running", "sudo higgs client up");
      expectRefusal(
        await higgs(laptop, "client", "up", "--state", "/root/fresh"),
        4,
        "not joined",
        "higgs client join INVITE",
      );
      expectRefusal(await higgs(laptop, "client", "up", "--port", "99999"), 2, "99999", "--port");
      expectRefusal(await higgs(laptop, "client", "up", "--wat"), 2, "--wat");
      expectRefusal(
        await higgs(laptop, "client", "up", "--exit", "No Such!"),
        2,
        '"No Such!"',
        "higgs client exit list",
      );
      expectRefusal(
        await higgs(laptop, "client", "up", "--exit", "nobody", "--timeout", "5s"),
        5,
        '"nobody"',
        "higgs client exit list",
      );
      await higgsOrThrow(laptop, "client", "exit", "use", "auto");
      await higgsOrThrow(laptop, "client", "down");
    },
    MINUTE,
  );

  test(
    "whose ports are busy names the port, how to see who has it, and the flag for another",
    async () => {
      const place = ["--state", "/root/busy", "--run", "/root/busy"];
      const tcp = await higgs(vps, "server", ...place, "--stun-port", "3999");
      expectRefusal(tcp, 1, "443", "--listen");
      const udp = await higgs(vps, "server", ...place, "--listen", "[::]:8443");
      expectRefusal(udp, 1, "3478", "ss -ulnp", "--stun-port");
      const program =
        "await Bun.udpSocket({ port: 51999, hostname: '0.0.0.0' }); console.log('bound'); setInterval(() => {}, 1e6)";
      await using squatter = await laptop.spawn([BUN, "-e", program]);
      await squatter.waitForLine(/bound/);
      const before = await snapshot(laptop, { without: ["etc and run", "processes"] });
      expectRefusal(await higgs(laptop, "client", "up", "--port", "51999"), 1, "51999", "ss -ulnp", "--port");
      expect(await snapshot(laptop, { without: ["etc and run", "processes"] })).toBe(before);
      await higgsOrThrow(laptop, "client", "down");
    },
    MINUTE,
  );

  test(
    "whose disk is full says which file cannot be written, as server and as client",
    async () => {
      const full = (bytes: number, fill: number): string =>
        `mkdir /root/full; mount -t tmpfs -o size=${bytes},mode=700 none /root/full; head -c ${fill} /dev/zero > /root/full/fill`;
      await laptop.execOrThrow(["sh", "-ec", full(4096, 4096)]);
      expectRefusal(
        await higgs(laptop, "client", "join", "--state", "/root/full", await invite(lab, "client")),
        1,
        "/root/full/",
        "disk is full",
        "Free some space",
      );
      await vps.execOrThrow(["sh", "-ec", full(65_536, 4096)]);
      const server = await higgs(
        vps,
        "server",
        "--state",
        "/root/full",
        "--run",
        "/root/run",
        "--listen",
        "[::]:8443",
        "--stun-port",
        "3999",
      );
      expectRefusal(server, 1, "/root/full/", "disk is full");
    },
    MINUTE,
  );

  test(
    "with a database of a newer version is refused, and the file stays as it is to the last byte",
    async () => {
      await using server = await serverAt("203.0.113.10:8443");
      const place = `/root/other-${places - 1}`;
      server.kill();
      expect(await server.exited).toBe(0);
      const program = `const { Database } = require("bun:sqlite"); const db = new Database("${place}/higgs.db");
        db.run("INSERT INTO migrations VALUES (99, 'x', 1)"); db.run("PRAGMA user_version = 99"); db.run("PRAGMA wal_checkpoint(TRUNCATE)"); db.close()`;
      await vps.execOrThrow([BUN, "-e", program]);
      const sums = (): Promise<string> =>
        vps.execOrThrow(["sh", "-c", `cd ${place} && sha256sum * 2>/dev/null | grep -v lock`]);
      const before = await sums();
      expect(before).toContain("higgs.db");
      const flags = ["--state", place, "--run", "/root/run", "--listen", "[::]:8443", "--stun-port", "3999"];
      expectRefusal(await higgs(vps, "server", ...flags), 1, `${place}/higgs.db`, "version 99", "newer higgs");
      expect(await sums()).toBe(before);
    },
    MINUTE,
  );

  test(
    "runs one of each role, and refuses a second with the first one's pid",
    async () => {
      await higgsOrThrow(laptop, "client", "up");
      const roles = [
        [vps, "server"],
        [home, "node"],
        [laptop, "client"],
      ] as const;
      for (const [host, role] of roles) {
        const pid = (JSON.parse(await host.readFile(`/run/higgs/${role}/lock`)) as { pid: number }).pid;
        expectRefusal(await higgs(host, role, "run"), 1, `pid ${pid}`, `higgs ${role} status`);
      }
      await untilBrowses(laptop);
      await higgsOrThrow(laptop, "client", "down");
    },
    MINUTE,
  );
});
