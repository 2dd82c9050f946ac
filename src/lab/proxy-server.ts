// The lab's HTTP proxy: CONNECT and nothing else, with a login where one is wanted, and one line for each request on its output.
import { connect, createServer, type Server, type Socket } from "node:net";
import type { Service } from "../base/service.ts";

export interface ProxyOrder {
  readonly addresses: readonly string[];
  readonly port: number;
  /** `user:password`, or null where anybody may. */
  readonly login: string | null;
}

const MOST_HEADER_BYTES = 8_192;

/** Resolves when it listens on every address. */
export async function runProxy(order: ProxyOrder): Promise<Service> {
  const open = new Set<Socket>();
  const servers = await Promise.all(order.addresses.map((address) => listen(address)));

  async function listen(address: string): Promise<Server> {
    const server = createServer((socket) => serve(track(socket)));
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    server.once("error", reject);
    server.listen(order.port, address, resolve);
    await promise;
    return server;
  }

  function track(socket: Socket): Socket {
    open.add(socket);
    socket.once("close", () => open.delete(socket));
    socket.on("error", () => socket.destroy());
    socket.setNoDelay(true);
    return socket;
  }

  function serve(client: Socket): void {
    let head = Buffer.alloc(0);
    const onData = (bytes: Buffer): void => {
      head = Buffer.concat([head, bytes]);
      const end = head.indexOf("\r\n\r\n");
      if (end < 0 && head.length <= MOST_HEADER_BYTES) return;
      client.off("data", onData);
      if (end >= 0) answer(client, head.toString("latin1", 0, end));
      else client.end("HTTP/1.1 431 Request Header Fields Too Large\r\n\r\n");
    };
    client.on("data", onData);
  }

  function answer(client: Socket, head: string): void {
    const target = /^CONNECT (?:\[([0-9a-f:.]+)\]|([^\s:]+)):(\d{1,5}) HTTP\/1\.[01]/i.exec(head);
    const host = target?.[1] ?? target?.[2];
    if (target === null || host === undefined) {
      client.end("HTTP/1.1 405 Method Not Allowed\r\nAllow: CONNECT\r\n\r\n");
      return;
    }
    const said = /\r\nproxy-authorization: basic ([A-Za-z0-9+/=]+)/i.exec(head)?.[1] ?? "";
    if (order.login !== null && Buffer.from(said, "base64").toString("utf8") !== order.login) {
      console.log(`407 ${host}:${target[3]}`);
      client.end('HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="lab"\r\n\r\n');
      return;
    }
    const server = track(connect({ host, port: Number(target[3]) }));
    let isThrough = false;
    server.once("connect", () => {
      isThrough = true;
      console.log(`200 ${host}:${target[3]}`);
      client.write("HTTP/1.1 200 Connection established\r\n\r\n");
      client.pipe(server);
      server.pipe(client);
    });
    server.once("close", () => {
      if (!isThrough) client.end("HTTP/1.1 502 Bad Gateway\r\n\r\n");
      else client.destroy();
    });
    client.once("close", () => server.destroy());
  }

  return {
    async [Symbol.asyncDispose]() {
      for (const socket of open) socket.destroy();
      await Promise.all(servers.map((server) => new Promise<void>((resolve) => server.close(() => resolve()))));
    },
  };
}
