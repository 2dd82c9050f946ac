import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { HiggsError } from "../../../src/base/errors.ts";
import {
  createLogger,
  LOG_LEVELS,
  LogRing,
  type Logger,
  type LogLevel,
  short,
  silentLogger,
} from "../../../src/base/log.ts";
import { check } from "../support/property.ts";

class ProbeError extends HiggsError {
  override readonly name = "ProbeError";
}

const SECRET = "sup3r-s3cret-value";

function capture(level: LogLevel = "trace"): { readonly log: Logger; readonly lines: string[] } {
  const lines: string[] = [];
  return { log: createLogger({ level, write: (line) => lines.push(line) }), lines };
}

function record(line: string | undefined): Record<string, unknown> {
  return JSON.parse(line ?? "null") as Record<string, unknown>;
}

describe("createLogger()", () => {
  test("createLogger() writes one line of JSON: level, ISO time, fields, message", () => {
    const { log, lines } = capture();
    log.info({ machine: "home", count: 3 }, "machine joined");
    expect(lines).toHaveLength(1);
    expect(lines[0]).not.toContain("\n");
    const line = record(lines[0]);
    expect(line).toEqual({ level: "info", time: line["time"], machine: "home", count: 3, msg: "machine joined" });
    expect(line["time"]).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  });

  test("createLogger() keeps to one line whatever the fields hold", () => {
    const { log, lines } = capture();
    log.warn({ name: 'a\nb\r\n{"level":"error"}' }, "odd name");
    expect(lines[0]?.includes("\n")).toBe(false);
    expect(record(lines[0])["name"]).toBe('a\nb\r\n{"level":"error"}');
  });

  test("createLogger() leaves out what is below its level", () => {
    for (const [at, level] of LOG_LEVELS.entries()) {
      const { log, lines } = capture(level);
      for (const each of LOG_LEVELS) log[each]({}, each);
      expect(lines.map((line) => record(line)["level"])).toEqual(LOG_LEVELS.slice(0, at + 1));
    }
  });

  test("Logger.child() adds its fields to every line", () => {
    const { log, lines } = capture();
    log.child({ machine: "home" }).child({ session: 7 }).debug({ path: "direct" }, "path chosen");
    expect(record(lines[0])).toMatchObject({ machine: "home", session: 7, path: "direct", msg: "path chosen" });
  });

  test("silentLogger says nothing, as does its child", () => {
    silentLogger.child({ machine: "home" }).error({}, "unheard");
    expect(silentLogger.child({})).toBe(silentLogger);
  });
});

describe("secrets in logs", () => {
  const names = [
    "secret",
    "token",
    "authorization",
    "privateKey",
    "presharedKey",
    "password",
    "invite",
    "Authorization",
    "inviteSecret",
  ];

  test("createLogger() censors a field with a secret's name, however deep it lies", () => {
    for (const name of names) {
      const { log, lines } = capture();
      const secret = { [name]: SECRET };
      log.info(secret, "top");
      log.info({ request: secret }, "nested");
      log.info({ request: { headers: secret } }, "deeper");
      log.info({ machines: [{ peer: { keys: secret } }] }, "in a list");
      log.child(secret).info({}, "of a child");
      log.child({ request: { headers: secret } }).info({}, "deep in a child");
      expect(lines).toHaveLength(6);
      for (const line of lines) {
        expect(line).not.toContain(SECRET);
        expect(line).toContain("[redacted]");
      }
    }
  });

  test("createLogger() censors an invite in any text, such as a command line", () => {
    const { log, lines } = capture();
    const invite = `higgs://vpn.example:443/#${SECRET}`;
    log.debug(
      { argv: ["higgs", "node", "join", invite, "--name", "home"], line: `join ${invite} now` },
      "command runs",
    );
    expect(lines[0]).not.toContain(SECRET);
    expect(record(lines[0])["argv"]).toEqual([
      "higgs",
      "node",
      "join",
      "higgs://vpn.example:443/#[redacted]",
      "--name",
      "home",
    ]);
    expect(record(lines[0])["line"]).toBe("join higgs://vpn.example:443/#[redacted] now");
  });

  test("createLogger() censors an error's detail and its cause", () => {
    const { log, lines } = capture();
    const cause = new ProbeError("Cannot read.", { code: "read", detail: { headers: { authorization: SECRET } } });
    const error = new ProbeError("Cannot probe.", { code: "dark", detail: { token: SECRET, path: "/tmp" }, cause });
    log.error({ error }, "probe failed");
    log.error({ err: error }, "probe failed");
    for (const line of lines) {
      expect(line).not.toContain(SECRET);
      expect(line).toContain("Cannot probe.");
      expect(line).toContain("Cannot read.");
      expect(line).toContain('"code":"dark"');
    }
  });

  test("createLogger() shows no raw bytes, which may be a key", () => {
    const { log, lines } = capture();
    log.info({ key: new Uint8Array(32).fill(0xab) }, "key made");
    expect(record(lines[0])["key"]).toBe("[32 bytes]");
  });

  test("createLogger() does not look into what is no plain record", () => {
    const { log, lines } = capture();
    class Door {
      readonly key = SECRET;
    }
    log.info({ door: new Door(), known: new Map([["token", SECRET]]), request: new Request("http://a/") }, "door seen");
    expect(record(lines[0])).toMatchObject({ door: "[Object]", known: "[Map]", request: "[Request]" });
  });

  test("createLogger() shows the names that only look like a secret's", () => {
    const { log, lines } = capture();
    log.info({ inviteId: "abcdefgh", tokens: 5, secrets: 0 }, "counted");
    expect(record(lines[0])).toMatchObject({ inviteId: "abcdefgh", tokens: 5, secrets: 0 });
  });

  test("createLogger() never throws and leaves the caller's fields as they are", () => {
    const cycle: Record<string, unknown> = { secret: SECRET };
    cycle["self"] = cycle;
    const { log, lines } = capture();
    log.info(
      { cycle, big: 7n, nothing: undefined, none: null, call: () => 1, at: new Date(0), url: new URL("http://a/") },
      "odd",
    );
    expect(cycle["secret"]).toBe(SECRET);
    expect(lines[0]).not.toContain(SECRET);
    expect(record(lines[0])).toMatchObject({ big: "7", none: null, at: "1970-01-01T00:00:00.000Z", url: "http://a/" });
    check(
      fc.property(
        fc.dictionary(fc.string(), fc.anything({ withBigInt: true, withDate: true, withTypedArray: true })),
        (fields) => {
          log.info(fields, "anything");
        },
      ),
    );
  });
});

describe("LogRing", () => {
  test("LogRing keeps the last lines, and createLogger() fills it", () => {
    const ring = new LogRing(3);
    const log = createLogger({ level: "info", write: () => undefined, ring });
    for (let count = 0; count < 10; count++) log.info({ count }, "counted");
    expect(ring.lines().map((line) => record(line)["count"])).toEqual([7, 8, 9]);
  });

  test("LogRing keeps no more characters than it may, and at least the newest line", () => {
    const ring = new LogRing(100, 10);
    for (const line of ["aaaa", "bbbb", "cccc"]) ring.push(line);
    expect(ring.lines()).toEqual(["bbbb", "cccc"]);
    ring.push("d".repeat(50));
    expect(ring.lines()).toEqual(["d".repeat(50)]);
    ring.push("e");
    expect(ring.lines()).toEqual(["e"]);
  });

  test("LogRing.follow() tells of each new line until it is ended", () => {
    const ring = new LogRing();
    const seen: string[] = [];
    ring.push("before");
    const end = ring.follow((line) => seen.push(line));
    ring.push("a");
    ring.push("b");
    end();
    ring.push("after");
    expect(seen).toEqual(["a", "b"]);
    expect(ring.lines()).toEqual(["before", "a", "b", "after"]);
  });
});

describe("short()", () => {
  test("short() leaves too little of a key to use", () => {
    expect(short("hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=")).toBe("hSDwCYkw…");
    expect(short("abcdefghijkl")).toBe("abcdefghijkl");
  });
});
