// What client and node change on a machine is undone to the last byte: after a normal end, a signal, a kill and a power cut.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { LabHost } from "../../src/lab/host.ts";
import type { Lab } from "../../src/lab/lab.ts";
import type { LabProcess } from "../../src/lab/process.ts";
import {
  higgs,
  higgsOrThrow,
  killNow,
  pidOf,
  startClient,
  startClientLab,
  startNetwork,
  startNode,
  untilBrowses,
  wireGuardPids,
} from "./client-lab.ts";
import { snapshot } from "./harness.ts";
import { leaveOnly, mechanismAsked } from "./mechanisms.ts";

const MINUTE = 60_000;
const mechanism = mechanismAsked();
let lab: Lab;
let node: LabProcess;
let laptop: LabHost;
let home: LabHost;

beforeAll(async () => {
  lab = await startClientLab();
  ({ node } = await startNetwork(lab));
  laptop = lab.host("laptop");
  home = lab.host("home-pc");
  await leaveOnly(laptop, mechanism);
  // Once up and down, so that every file of the role's own is there: they stay.
  await higgsOrThrow(laptop, "client", "up");
  await higgsOrThrow(laptop, "client", "down");
}, MINUTE);

afterAll(async () => {
  await lab[Symbol.asyncDispose]();
}, MINUTE);

/** Shows that there was something to undo. */
async function connected(host: LabHost, before: string): Promise<void> {
  await untilBrowses(host);
  expect(await snapshot(host)).not.toBe(before);
}

describe("the laptop is as it was", () => {
  let before: string;
  beforeAll(async () => {
    before = await snapshot(laptop);
  }, MINUTE);

  test(
    "after up and down",
    async () => {
      await higgsOrThrow(laptop, "client", "up");
      await connected(laptop, before);
      await higgsOrThrow(laptop, "client", "down");
      expect(await snapshot(laptop)).toBe(before);
      expect(await higgsOrThrow(laptop, "state", "clean", "--role", "client")).toContain("nothing to put back");
    },
    MINUTE,
  );

  test(
    "after a down on a full disk, which undid nothing once",
    async () => {
      const dir = "/var/lib/higgs/client";
      const sh = (script: string) => laptop.exec(["sh", "-c", script]);
      // A small disk of its own, to be filled.
      await sh(
        `cp -a ${dir} /root/state && mount -t tmpfs -o size=256k,mode=700 none ${dir} && cp -a /root/state/. ${dir}`,
      );
      await higgsOrThrow(laptop, "client", "up");
      await connected(laptop, before);
      await sh(`cat /dev/zero > ${dir}/fill`);
      expect((await sh(`echo x > ${dir}/more`)).code).not.toBe(0); // positive control: it is full
      const { stderr } = await higgs(laptop, "client", "down");
      expect(stderr).toBe("");
      expect(await laptop.exec(["test", "-e", `${dir}/journal.json`])).toMatchObject({ code: 1 });
      await sh(`umount ${dir}; rm -r /root/state`);
      expect(await snapshot(laptop)).toBe(before);
    },
    MINUTE,
  );

  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    test(
      `after ${signal} to a client in the foreground, which ends with 0`,
      async () => {
        const client = await startClient(laptop);
        await connected(laptop, before);
        client.kill(signal);
        expect(await client.exited).toBe(0);
        expect(await snapshot(laptop)).toBe(before);
      },
      MINUTE,
    );
  }

  test(
    "after kill -9 and state clean, which says what it did and does nothing the second time",
    async () => {
      await higgsOrThrow(laptop, "client", "up");
      await killNow(laptop, await pidOf(laptop, "client"));
      expect(await snapshot(laptop)).not.toBe(before);
      const said = await higgsOrThrow(laptop, "state", "clean", "--role", "client");
      for (const thing of [
        "resolv.conf",
        "higgs0",
        "routing rules",
        mechanism === "nft" ? "higgs_client" : "higgs-client-",
        "src_valid_mark",
      ]) {
        expect(said).toContain(thing);
      }
      expect(await snapshot(laptop)).toBe(before);
      expect(await higgsOrThrow(laptop, "state", "clean", "--role", "client")).toContain("nothing to put back");
      expect(await snapshot(laptop)).toBe(before);
    },
    MINUTE,
  );

  test(
    "after kill -9 and state clean although the journal is gone",
    async () => {
      await higgsOrThrow(laptop, "client", "up");
      await killNow(laptop, await pidOf(laptop, "client"));
      await laptop.execOrThrow(["rm", "/var/lib/higgs/client/journal.json"]);
      await higgsOrThrow(laptop, "state", "clean", "--role", "client");
      // What a kernel setting was before is in the journal alone.
      const settings = ["all/src_valid_mark=0", "all/arp_ignore=0"];
      for (const setting of settings) await laptop.execOrThrow(["sysctl", "-qw", `net/ipv4/conf/${setting}`]);
      expect(await snapshot(laptop)).toBe(before);
    },
    MINUTE,
  );

  test(
    "after kill -9 of client and wireguard-go, and state clean",
    async () => {
      await higgsOrThrow(laptop, "client", "up");
      await killNow(laptop, await pidOf(laptop, "client"), ...(await wireGuardPids(laptop, "higgs0")));
      await higgsOrThrow(laptop, "state", "clean", "--role", "client");
      expect(await snapshot(laptop)).toBe(before);
    },
    MINUTE,
  );

  test(
    "after kill -9, the next up and down",
    async () => {
      await higgsOrThrow(laptop, "client", "up");
      await killNow(laptop, await pidOf(laptop, "client"));
      await higgsOrThrow(laptop, "client", "up");
      await connected(laptop, before);
      await higgsOrThrow(laptop, "client", "down");
      expect(await snapshot(laptop)).toBe(before);
    },
    MINUTE,
  );

  test(
    "after state clean was refused while the client ran",
    async () => {
      await higgsOrThrow(laptop, "client", "up");
      const refused = await higgs(laptop, "state", "clean", "--role", "client");
      expect(refused.code).toBe(1);
      expect(refused.stderr).toContain("already running");
      await connected(laptop, before);
      await higgsOrThrow(laptop, "client", "down");
      expect(await snapshot(laptop)).toBe(before);
    },
    MINUTE,
  );
});

/** Each makes /etc/resolv.conf something else that names the café's router as the DNS server. */
const RESOLV_CONFS: Readonly<Record<string, string>> = {
  "a file of mode 600 without a last line end": String.raw`printf 'nameserver 192.168.7.1\noptions edns0' > f; chmod 600 f; mv f /etc/resolv.conf`,
  "a file with bytes that are no text": String.raw`printf '# caf\351 \000\377\r\nnameserver 192.168.7.1\n\n\n' > /etc/resolv.conf`,
  "an absolute link": "cp /etc/resolv.conf /run/names.conf; ln -sf /run/names.conf /etc/resolv.conf",
  "a relative link": "mkdir -p /etc/names; cp /etc/resolv.conf /etc/names/now; ln -sf names/now /etc/resolv.conf",
  "a link that leads nowhere": "ln -sf /run/not-yet/resolv.conf /etc/resolv.conf",
  nothing: "rm /etc/resolv.conf",
  "a mount of its own": "cp /etc/resolv.conf /root/mounted; mount --bind /root/mounted /etc/resolv.conf",
  "a mount of its own that is longer than what is written into it":
    "(cat /etc/resolv.conf; seq -f '# %g' 200) > /root/mounted; mount --bind /root/mounted /etc/resolv.conf",
};

describe("resolv.conf is as it was", () => {
  for (const [what, make] of Object.entries(RESOLV_CONFS)) {
    test(
      `when it was ${what}: after down, and after kill -9 and state clean`,
      async () => {
        await laptop.execOrThrow(["sh", "-ec", `cp -a /etc/resolv.conf /root/kept; ${make}`]);
        try {
          const before = await snapshot(laptop);
          await higgsOrThrow(laptop, "client", "up");
          await connected(laptop, before);
          await higgsOrThrow(laptop, "client", "down");
          expect(await snapshot(laptop)).toBe(before);
          await higgsOrThrow(laptop, "client", "up");
          await killNow(laptop, await pidOf(laptop, "client"));
          await higgsOrThrow(laptop, "state", "clean", "--role", "client");
          expect(await snapshot(laptop)).toBe(before);
        } finally {
          await higgs(laptop, "client", "down"); // still up only where the test has failed
          await laptop.exec(["umount", "/etc/resolv.conf"]);
          await laptop.execOrThrow(["sh", "-ec", "rm -rf /etc/resolv.conf /etc/names; mv /root/kept /etc/resolv.conf"]);
        }
      },
      MINUTE,
    );
  }

  test(
    "and stays what somebody else wrote into it meanwhile",
    async () => {
      const before = await laptop.readFile("/etc/resolv.conf");
      await higgsOrThrow(laptop, "client", "up");
      await laptop.writeFile("/etc/resolv.conf", "nameserver 203.0.113.53\n");
      await higgsOrThrow(laptop, "client", "down");
      expect(await laptop.readFile("/etc/resolv.conf")).toBe("nameserver 203.0.113.53\n");
      await laptop.writeFile("/etc/resolv.conf", before);
    },
    MINUTE,
  );

  for (const how of ["state clean", "up and down"]) {
    test(
      `after a power cut and ${how}`,
      async () => {
        const before = await laptop.readFile("/etc/resolv.conf");
        await higgsOrThrow(laptop, "client", "up");
        await laptop.powerOff();
        await laptop.boot();
        await leaveOnly(laptop, mechanism);
        expect(await laptop.readFile("/etc/resolv.conf")).not.toBe(before);
        if (how === "state clean") await higgsOrThrow(laptop, "state", "clean", "--role", "client");
        else {
          await higgsOrThrow(laptop, "client", "up");
          await untilBrowses(laptop);
          await higgsOrThrow(laptop, "client", "down");
        }
        expect(await laptop.readFile("/etc/resolv.conf")).toBe(before);
        expect((await laptop.exec(["ls", "/var/lib/higgs/client/journal.json"])).code).not.toBe(0);
      },
      MINUTE,
    );
  }
});

describe("the home PC is as it was", () => {
  let before: string;

  beforeAll(async () => {
    node.kill("SIGTERM");
    expect(await node.exited).toBe(0);
    before = await snapshot(home);
    node = await startNode(lab);
    expect(await snapshot(home)).not.toBe(before);
  }, MINUTE);

  test(
    "after node down",
    async () => {
      await higgsOrThrow(home, "node", "down");
      expect(await node.exited).toBe(0);
      expect(await snapshot(home)).toBe(before);
    },
    MINUTE,
  );

  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    test(
      `after ${signal}`,
      async () => {
        node = await startNode(lab);
        node.kill(signal);
        expect(await node.exited).toBe(0);
        expect(await snapshot(home)).toBe(before);
      },
      MINUTE,
    );
  }

  test(
    "bug: a node that put everything back failed all the same, where nft had failed once on the way",
    async () => {
      node = await startNode(lab);
      const nft = (await home.execOrThrow(["sh", "-c", "readlink -f $(command -v nft)"])).trim();
      const [real, once, failed] = ["/root/real-nft", "/root/nft-once", "/root/nft-failed"];
      await home.execOrThrow(["cp", nft, real]);
      const fails = `mkdir ${failed} 2>/dev/null && { echo "Error: Could not process rule: Out of memory" >&2; exit 1; }`;
      await home.writeFile(once, `#!/bin/sh\n[ "$1 $4" = "delete higgs_node_demux" ] && ${fails}\nexec ${real} "$@"\n`);
      await home.execOrThrow(["sh", "-c", `chmod 755 ${once} && mount --bind ${once} ${nft}`]);
      node.kill();
      const code = await node.exited;
      await home.execOrThrow(["umount", nft]);
      await home.execOrThrow(["rmdir", failed]); // positive control: it did fail
      await home.execOrThrow(["rm", real, once]);
      expect(code).toBe(0);
      expect(await snapshot(home)).toBe(before);
    },
    MINUTE,
  );

  test(
    "after kill -9 and state clean, also without wireguard-go",
    async () => {
      for (const also of [false, true]) {
        node = await startNode(lab);
        const more = also ? await wireGuardPids(home, "higgsn0") : [];
        await killNow(home, await pidOf(home, "node"), ...more);
        const said = await higgsOrThrow(home, "state", "clean", "--role", "node");
        expect(said).toContain("higgs_node");
        expect(said).toContain("ip_forward");
        expect(await snapshot(home)).toBe(before);
        expect(await higgsOrThrow(home, "state", "clean")).toContain("node: nothing to put back");
      }
    },
    MINUTE,
  );

  test(
    "after kill -9, the next start and its end",
    async () => {
      node = await startNode(lab);
      await killNow(home, await pidOf(home, "node"));
      node = await startNode(lab);
      await higgsOrThrow(laptop, "client", "up");
      await untilBrowses(laptop);
      await higgsOrThrow(laptop, "client", "down");
      node.kill("SIGTERM");
      expect(await node.exited).toBe(0);
      expect(await snapshot(home)).toBe(before);
    },
    MINUTE,
  );
});
