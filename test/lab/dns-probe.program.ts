// Runs in the lab's hosts: asks a DNS server by its address, over UDP or TCP, and prints what came back.
import { createSocket } from "node:dgram";
import { connect, isIPv6 } from "node:net";
import { decode, encode, streamDecode, streamEncode, type Packet, type RecordType } from "dns-packet";
import type { DnsAnswer, DnsProbe } from "./dns-hosts.ts";

const probes = JSON.parse(process.argv[2] ?? "[]") as readonly DnsProbe[];
console.log(JSON.stringify(await Promise.all(probes.map(ask))));

function ask(probe: DnsProbe): Promise<DnsAnswer> {
  const { promise, resolve } = Promise.withResolvers<DnsAnswer>();
  const nothing = (why: string): void => resolve({ failure: why, code: "", truncated: false, data: [], bytes: 0 });
  const silence = setTimeout(() => nothing("silence"), probe.waitMs);
  const failed = (error: Error): void => nothing("code" in error ? String(error.code) : error.message);
  const query: Packet = {
    type: "query",
    id: 4711,
    flags: 0x0100,
    questions: [{ type: probe.type as RecordType, name: probe.name }],
  };
  if (probe.protocol === "tcp") {
    const socket = connect({ host: probe.server, port: probe.port });
    let got = Buffer.alloc(0);
    socket.on("connect", () => socket.write(streamEncode(query)));
    socket.on("data", (chunk) => {
      got = Buffer.concat([got, Buffer.from(chunk)]);
      if (got.length >= 2 && got.length >= 2 + got.readUInt16BE(0))
        resolve(answerOf(streamDecode(got), got.length - 2));
    });
    socket.on("error", failed);
    return promise.finally(() => {
      clearTimeout(silence);
      socket.destroy();
    });
  }
  const socket = createSocket(isIPv6(probe.server) ? "udp6" : "udp4");
  socket.on("message", (bytes) => resolve(answerOf(decode(bytes), bytes.length)));
  socket.on("error", failed);
  // Connected, so that a refusal by ICMP is told, and only that server's answer counts.
  socket.connect(probe.port, probe.server, () => socket.send(encode(query)));
  return promise.finally(() => {
    clearTimeout(silence);
    socket.close();
  });
}

function answerOf(packet: Packet, bytes: number): DnsAnswer {
  const { rcode = "" } = packet as Packet & { rcode?: string };
  const { flag_tc: truncated = false } = packet as Packet & { flag_tc?: boolean };
  const data = (packet.answers ?? []).map((record) =>
    "data" in record && typeof record.data === "string" ? record.data : "",
  );
  return { failure: packet.id === 4711 ? "" : "another id", code: rcode, truncated, data, bytes };
}
