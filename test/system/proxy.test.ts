// Connections through an HTTP proxy over loopback: what a real one passes on, and what broken and hostile ones are called.
import { afterAll, describe, expect, test } from "bun:test";
import { chmod, readFile, rm, stat } from "node:fs/promises";
import { connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { type IpAddress, parseHostPort } from "../../src/base/ip.ts";
import { HiggsError } from "../../src/base/errors.ts";
import { runProxy } from "../../src/lab/proxy-server.ts";
import { parseProxy } from "../../src/net/http-proxy.ts";
import { connectThrough } from "../../src/net/proxy-connect.ts";
import { chosenProxy, choosePermanently, ProxyUse } from "../../src/peer/proxy-use.ts";
import { openDoor } from "../../src/peer/server-door.ts";
import { openStateDir } from "../../src/peer/state-dir.ts";
import { openProxy, proxyShown } from "../../src/roles/proxy.ts";
import { NEVER } from "./machine-support.ts";
import { startServer, temporaryDir } from "./server-support.ts";

const LOOPBACK = "127.0.0.1" as IpAddress;
const TARGET = { host: "server.example", port: 443 };

/** A TCP server on loopback that does what is told with each connection's first bytes. */
async function fakeProxy(
  onRequest: (socket: Socket, request: string) => void,
): Promise<{ server: Server; port: number }> {
  const server = createServer((socket) => {
    socket.on("error", () => undefined);
    socket.once("data", (bytes) => onRequest(socket, bytes.toString("latin1")));
  });
  await new Promise<void>((resolve) => server.listen(0, LOOPBACK, resolve));
  const address = server.address();
  return { server, port: typeof address === "object" && address !== null ? address.port : 0 };
}

function proxyAt(port: number, login = "") {
  const proxy = parseProxy(`http://${login}127.0.0.1:${port}`);
  if (proxy === null) throw new Error("it is no proxy");
  return { proxy, address: LOOPBACK };
}

async function failureOf(work: Promise<unknown>): Promise<HiggsError> {
  const thrown = await work.then(
    () => null,
    (error: unknown) => error,
  );
  if (thrown instanceof HiggsError) return thrown;
  throw new Error(`It did not fail as it should: ${String(thrown)}`);
}

describe("connectThrough()", () => {
  const answers: readonly [string, string, string, string][] = [
    [
      "wants a login",
      "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\n\r\n",
      "proxy-login",
      "wants a user name",
    ],
    ["wants another kind of login", "HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\n\r\n", "proxy-login", "by NTLM"],
    [
      "forbids",
      "HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno!",
      "proxy-refused",
      "refuses it (403 Forbidden)",
    ],
    ["redirects", "HTTP/1.1 302 Found\r\nLocation: http://portal/\r\n\r\n", "proxy-refused", "(302 Found)"],
    ["does not get there", "HTTP/1.0 502 Bad\r\n\r\n", "proxy-no-way", "does not reach it (502 Bad)"],
    ["speaks SSH", "SSH-2.0-OpenSSH_9.2\r\n", "proxy-not-http", "no HTTP proxy"],
    ["speaks HTTP/2", "HTTP/2 200\r\n\r\n", "proxy-not-http", "no HTTP proxy"],
    ["says nothing and closes", "", "proxy-not-http", "without an answer"],
    ["breaks off", "HTTP/1.1 200 O", "proxy-not-http", "no HTTP proxy"],
    ["answers with escapes", "HTTP/1.1 403 \x1b[31mred\x07\r\n\r\n", "proxy-refused", "(403 ?[31mred?)"],
  ];
  for (const [name, answer, code, text] of answers) {
    test(`a proxy that ${name} is ${code}`, async () => {
      const { server, port } = await fakeProxy((socket) => socket.end(Buffer.from(answer, "latin1")));
      const failure = await failureOf(connectThrough(proxyAt(port), TARGET, NEVER));
      expect(failure.code).toBe(code);
      expect(failure.message).toContain(`at server.example:443 through the proxy 127.0.0.1:${port}: `);
      expect(failure.message).toContain(text);
      expect(failure.remedy).toBeString();
      server.close();
    });
  }

  test("a header without an end is given up after 16 KiB", async () => {
    let sent = 0;
    const { server, port } = await fakeProxy((socket) => {
      const more = (): void => {
        if (socket.destroyed) return;
        sent += 4_096;
        socket.write(`${sent === 4_096 ? "HTTP/1.1 200 OK\r\n" : ""}X: ${"a".repeat(4_090)}\r\n`, more);
      };
      more();
    });
    const failure = await failureOf(connectThrough(proxyAt(port), TARGET, NEVER));
    expect(failure.code).toBe("proxy-not-http");
    expect(failure.message).toContain("its answer has no end");
    server.close();
  });

  test("nobody there is proxy-unreachable, and an abort ends a silent one", async () => {
    const { server, port } = await fakeProxy(() => undefined);
    const silent = connectThrough(proxyAt(port), TARGET, AbortSignal.timeout(50));
    expect((await silent.then(String, (error: unknown) => error as Error)) as Error).toMatchObject({
      name: "TimeoutError",
    });
    await new Promise((resolve) => server.close(resolve));
    const failure = await failureOf(connectThrough(proxyAt(port), TARGET, NEVER));
    expect(failure.code).toBe("proxy-unreachable");
    expect(failure.remedy).toContain("--proxy none");
  });

  test("sends the login, and takes no answer that goes on", async () => {
    const requests: string[] = [];
    const { server, port } = await fakeProxy((socket, request) => {
      requests.push(request);
      socket.write(`HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n${requests.length === 1 ? "" : "more"}`);
    });
    const target = { host: "2001:db8::1", port: 443 };
    const socket = await connectThrough(proxyAt(port, "ann:p%40ss@"), target, NEVER);
    expect(requests).toEqual([
      "CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\nProxy-Authorization: Basic YW5uOnBAc3M=\r\n\r\n",
    ]);
    socket.destroy();
    const failure = await failureOf(connectThrough(proxyAt(port), target, NEVER));
    expect(failure.message).toContain("it goes on talking where a server would listen");
    server.close();
  });
});

describe("openDoor() through a proxy", () => {
  /** CONNECT to any name leads to one port of loopback: the names are the proxy's to know. */
  async function proxyTo(port: number, behave: (socket: Socket, go: () => void) => void = (_socket, go) => go()) {
    const requests: string[] = [];
    const fake = await fakeProxy((socket, request) => {
      requests.push(request.split("\r\n")[0] ?? "");
      behave(socket, () => {
        const server = connect({ host: LOOPBACK, port });
        server.on("error", () => socket.destroy());
        server.once("connect", () => {
          socket.write("HTTP/1.1 200 OK\r\n\r\n");
          socket.pipe(server);
          server.pipe(socket);
        });
        socket.once("close", () => server.destroy());
      });
    });
    return { ...fake, requests };
  }

  const NAMED = { host: "only-the-proxy-knows.invalid", port: 443 };

  test("the server's name is the proxy's to resolve; proof, API and WebSocket come through, and the pin holds", async () => {
    await using server = await startServer();
    const port = parseHostPort(server.server.names[0] ?? "", 0)?.port ?? 0;
    const { requests, ...fake } = await proxyTo(port);
    const proxy = { ...proxyAt(fake.port, "ann:secret@"), addresses: [] };
    const door = await openDoor(NAMED, server.server.network, { addresses: [], pin: null, proxy }, NEVER);
    expect(door.endpoint).toEqual({ address: LOOPBACK, port: fake.port });
    expect(door.proxyAddresses).toEqual([LOOPBACK]);
    expect(door.addresses).toEqual([]);
    const again = await openDoor(NAMED, server.server.network, { addresses: [], pin: door.pin, proxy }, NEVER);
    expect(again.pin).toEqual(door.pin);
    // Refused for its token: by the server, so it got there.
    const ws = await failureOf(
      door.openWs(
        "/api/v1/control",
        { token: "x", openTimeoutMs: 2_000, pingEveryMs: 1_000, onClose: () => undefined },
        NEVER,
      ),
    );
    expect(ws.code).toBe("ws-refused");
    expect(new Set(requests)).toEqual(new Set([`CONNECT ${NAMED.host}:443 HTTP/1.1`]));
    fake.server.close();
  });

  test("a proxy that puts itself in between is not trusted, whatever it shows", async () => {
    await using real = await startServer();
    await using other = await startServer();
    const port = parseHostPort(other.server.names[0] ?? "", 0)?.port ?? 0;
    const { server, port: at } = await proxyTo(port);
    const hints = { addresses: [], pin: null, proxy: { ...proxyAt(at), addresses: [] } };
    const failure = await failureOf(openDoor(NAMED, real.server.network, hints, NEVER));
    expect(failure.code).toBe("server-not-proven");
    server.close();
  });

  test("a proxy that changes its mind is told of by its own words, from requests and WebSockets alike", async () => {
    await using server = await startServer();
    const port = parseHostPort(server.server.names[0] ?? "", 0)?.port ?? 0;
    let isOpen = true;
    const { server: fake, port: at } = await proxyTo(port, (socket, go) => {
      if (isOpen) go();
      else socket.end("HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\n\r\n");
    });
    const hints = { addresses: [], pin: null, proxy: { ...proxyAt(at, "ann:secret@"), addresses: [] } };
    const door = await openDoor(NAMED, server.server.network, hints, NEVER);
    isOpen = false;
    const options = { token: "x", openTimeoutMs: 2_000, pingEveryMs: 1_000, onClose: () => undefined };
    const failures = [
      await failureOf(door.openWs("/api/v1/control", options, NEVER)),
      await failureOf(openDoor(NAMED, server.server.network, { ...hints, pin: door.pin }, NEVER)),
    ];
    for (const failure of failures) {
      expect(failure.code).toBe("proxy-login");
      expect(failure.message).toContain("refuses the user name and the password");
      expect(JSON.stringify([failure.message, failure.remedy, failure.detail])).not.toContain("secret");
    }
    fake.close();
  });

  test("the lab's proxy asks for its login, and answers nothing but CONNECT", async () => {
    const server = await fakeProxy((socket) => socket.end("through"));
    const port = await freePort();
    await using _proxy = await runProxy({ addresses: [LOOPBACK], port, login: "ann:secret" });
    const target = { host: LOOPBACK as string, port: server.port };
    expect((await failureOf(connectThrough(proxyAt(port), target, NEVER))).code).toBe("proxy-login");
    const socket = await connectThrough(proxyAt(port, "ann:secret@"), target, NEVER);
    socket.write("hello");
    const said1 = await new Promise((resolve) => socket.once("data", (bytes) => resolve(bytes.toString())).resume());
    expect(said1).toBe("through");
    socket.destroy();
    const nowhere = { host: LOOPBACK as string, port: await freePort() };
    expect((await failureOf(connectThrough(proxyAt(port, "ann:secret@"), nowhere, NEVER))).code).toBe("proxy-no-way");
    const plain = connect({ host: LOOPBACK, port });
    plain.write("GET http://example.org/ HTTP/1.1\r\n\r\n");
    const said = await new Promise<string>((resolve) => plain.once("data", (bytes) => resolve(bytes.toString())));
    expect(said).toStartWith("HTTP/1.1 405 ");
    plain.destroy();
    server.server.close();
  });
});

async function freePort(): Promise<number> {
  const { server, port } = await fakeProxy(() => undefined);
  await new Promise((resolve) => server.close(resolve));
  return port;
}

describe("which proxy", () => {
  const environment = process.env["HTTPS_PROXY"];
  afterAll(() => {
    if (environment !== undefined) process.env["HTTPS_PROXY"] = environment;
  });
  const named = (text: string) => ({ text, except: "", isNamed: true });
  const elsewhere = { text: "http://env.example:1", except: "vpn.example", isNamed: false };

  test("the one that is named is that of next time, before the environment's, until none is named", async () => {
    const path = await temporaryDir();
    const dir = await openStateDir(path);
    expect(await openProxy(dir, null)).toBeNull();
    expect((await openProxy(dir, elsewhere))?.choice.proxy.server.host).toBe("env.example");
    expect(await chosenProxy(dir)).toBeNull();
    expect((await openProxy(dir, named("http://ann:secret@named.example:1")))?.choice.except).toBe("");
    expect((await openProxy(dir, elsewhere))?.choice.proxy.server.host).toBe("named.example");
    expect(await proxyShown(path, elsewhere)).toEqual({ value: "http://***@named.example:1", isRemembered: true });
    expect((await stat(join(path, "proxy.json"))).mode & 0o077).toBe(0);
    expect(await openProxy(dir, named("none"))).toBeNull();
    expect(await openProxy(dir, null)).toBeNull();
    expect(await readFile(join(path, "proxy.json"), "utf8")).not.toContain("secret");
    await rm(path, { recursive: true });
  });

  test("from a file that only its owner reads, and never followed by the runtime on its own", async () => {
    const path = await temporaryDir();
    const dir = await openStateDir(path);
    const file = join(path, "proxy.txt");
    process.env["HTTPS_PROXY"] = "http://127.0.0.1:1";
    await Bun.write(file, "http://ann:secret@named.example:1\n");
    await chmod(file, 0o644);
    expect((await failureOf(openProxy(dir, named(`file:${file}`)))).code).toBe("file-too-open");
    await chmod(file, 0o600);
    expect((await openProxy(dir, named(`file:${file}`)))?.choice.proxy.credentials?.password).toBe("secret");
    expect(process.env["HTTPS_PROXY"]).toBeUndefined();
    await Bun.write(file, "ftp://secret@named.example\n");
    await chmod(file, 0o600);
    const failure = await failureOf(openProxy(dir, null));
    expect(failure.code).toBe("bad-proxy");
    expect(failure.message).not.toContain("secret");
    const other = await failureOf(openProxy(dir, named(`file:${file}.missing`)));
    expect(other.message).toContain("there is no such file");
    const socks = await openStateDir(await temporaryDir());
    const env = await failureOf(openProxy(socks, { ...elsewhere, text: "socks5://ann:secret@127.0.0.1:9050" }));
    expect(env.message).toBe("Cannot use the proxy of HTTPS_PROXY: it is no http://[USER:PASSWORD@]HOST:PORT.");
    await rm(path, { recursive: true });
    await rm(socks.path, { recursive: true });
  });

  test("where it was is kept beside the choice, for that proxy alone", async () => {
    const path = await temporaryDir();
    const dir = await openStateDir(path);
    const use = async (host: string) => {
      const { proxy } = { proxy: parseProxy(`http://${host}:1`) };
      if (proxy === null) throw new Error("it is no proxy");
      return await ProxyUse.open(dir, { proxy, except: "direct.example" });
    };
    const first = await use("a.example");
    expect(first.endpoints()).toEqual([]);
    await choosePermanently(dir, "http://a.example:1");
    await first.keep(["192.0.2.1", "192.0.2.2"] as IpAddress[]);
    expect((await use("a.example")).endpoints()).toEqual([
      { address: "192.0.2.1" as IpAddress, port: 1 },
      { address: "192.0.2.2" as IpAddress, port: 1 },
    ]);
    expect(await chosenProxy(dir)).toBe("http://a.example:1");
    expect((await use("b.example")).endpoints()).toEqual([]);
    expect((await use("192.0.2.9")).endpoints()).toEqual([{ address: "192.0.2.9" as IpAddress, port: 1 }]);
    expect(first.for({ host: "direct.example", port: 443 })).toBeNull();
    expect(first.for({ host: "vpn.example", port: 443 })?.addresses).toHaveLength(2);
    await rm(path, { recursive: true });
  });
});
