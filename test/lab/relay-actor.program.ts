// Runs on a lab host and does what a test asks over a socket in the file system: an end of relayed sessions, or the server's relay.
import { mkdir, rm } from "node:fs/promises";
import { parseIp } from "../../src/base/ip.ts";
import { createLogger } from "../../src/base/log.ts";
import { systemExec } from "../../src/net/exec.ts";
import { openJournal } from "../../src/net/journal-file.ts";
import { prepareKernelRelay, resetKernelRelay } from "../../src/net/relay-system.ts";
import { nftRelayTable } from "../../src/net/relay-table.ts";
import { linuxSysctl } from "../../src/net/sysctl.ts";
import { bindingRequest, bindingSuccess, checkIntegrity, decodeStun, encodeStun } from "../../src/proto/stun.ts";
import { KernelRelay } from "../../src/server/udp-relay/kernel.ts";
import { sessionName } from "../../src/server/udp-relay/messages.ts";
import { udpRelay } from "../../src/server/udp-relay/service.ts";
import { type ActorOrder, relayKeys } from "./relay-actor.ts";

const [mode = "", socketPath = "", argument = ""] = process.argv.slice(2);

if (mode === "end") await end(Number(argument) as 0 | 1);
else if (mode === "system") await system(argument);
else await server(argument);

/** Answers what is made with the relay's key, as an end does; everything else it keeps. */
async function end(which: 0 | 1): Promise<void> {
  const received: { from: string; hex: string }[] = [];
  const keys = relayKeys();
  let isMute = false;
  const open = (port: number, hostname: string) =>
    Bun.udpSocket({
      hostname,
      port,
      binaryType: "uint8array",
      ...(hostname === "::" ? { flags: 8 } : {}), // IPV6_V6ONLY: each family has a socket of its own
      socket: {
        data(socket, bytes, fromPort, address) {
          const message = decodeStun(bytes);
          const from = parseIp(address);
          const isChallenge = message?.class === "request" && checkIntegrity(bytes, keys.toEnd[which]);
          if (isChallenge && message !== null && from !== null) {
            received.push({ from: `${address} ${fromPort}`, hex: "challenge" });
            const mapped = { address: from, port: fromPort };
            const answer = encodeStun(bindingSuccess(message.transactionId, { mapped }), {
              integrityKey: keys.fromEnd[which],
            });
            if (!isMute) socket.send(answer, fromPort, address);
            return;
          }
          received.push({ from: `${address} ${fromPort}`, hex: bytes.toHex() });
        },
        error: () => undefined,
      },
    });
  const sockets = new Map<string, Awaited<ReturnType<typeof open>>>();
  const from = async (port: number, to: string) => {
    const hostname = to.includes(":") ? "::" : "0.0.0.0";
    const key = `${hostname} ${port}`;
    const socket = sockets.get(key) ?? (await open(port, hostname));
    sockets.set(key, socket);
    return socket;
  };
  // Where the others expect it, before it has said anything itself.
  for (const to of ["0.0.0.0", "::"]) await from(51_820, to);
  listen(async (order) => {
    switch (order.do) {
      case "send": {
        const socket = await from(order.fromPort, order.to);
        const bytes = Buffer.from(order.hex, "hex");
        try {
          return socket.send(bytes, order.port, order.to);
        } catch {
          return socket.send(bytes, order.port, order.to); // the first told of an ICMP error that an earlier one caused
        }
      }
      case "ask": {
        const id = crypto.getRandomValues(new Uint8Array(12));
        const user = sessionName(order.session);
        const request = encodeStun(bindingRequest(id, [{ type: "username", text: user }]), {
          integrityKey: order.forged === true ? new Uint8Array(32).fill(99) : keys.fromEnd[which],
        });
        return (await from(order.fromPort, order.to)).send(request, order.port, order.to);
      }
      case "mute":
        isMute = order.mute;
        return null;
      case "received":
        return received.splice(0);
      default:
        throw new Error(`An end cannot ${order.do}.`);
    }
  });
}

/** `kernel` or `process`, then the addresses. */
async function server(text: string): Promise<void> {
  const [how, ...addresses] = text.split(",");
  const log = createLogger({ level: "debug", write: (line) => console.error(line) });
  const places = addresses.flatMap((one) => parseIp(one) ?? []).map((local) => ({ local, public: local }));
  let kernel: KernelRelay | null = null;
  const table = nftRelayTable({ exec: systemExec() });
  const signal = AbortSignal.timeout(60_000);
  if (how === "kernel") {
    const reserved = await table.apply({ addresses: places.map(({ local }) => local), fence: ["eth0"] }, signal);
    kernel = new KernelRelay({ table, families: new Set([4, 6]), reserved, log });
  }
  const relay = udpRelay({ kernel, log }, { places, ports: { first: 40_000, last: 40_099 } });
  let metered = 0;
  const onRelayed = (bytes: number): void => void (metered += bytes);
  listen(async (order) => {
    switch (order.do) {
      case "open":
        return relay.open(order.session, relayKeys(), { onRelayed });
      case "withhold":
        relay.withhold(order.session, order.withhold);
        return null;
      case "close":
        relay.close(order.session);
        return null;
      case "status":
        await relay.count();
        return {
          kernel: relay.kernel,
          bytes: relay.bytes,
          metered,
          forwarded: relay.forwarded.packets,
          dropped: relay.forwarded.dropped,
          stun: relay.stun,
        };
      default:
        throw new Error(`A server cannot ${order.do}.`);
    }
  });
}

/** The operating system's part alone, as the server's role has it done. */
async function system(text: string): Promise<void> {
  const log = createLogger({ level: "debug", write: (line) => console.error(line) });
  const addresses = text.split(",").flatMap((one) => parseIp(one) ?? []);
  await mkdir("/var/lib/relay", { recursive: true });
  const journal = await openJournal({ path: "/var/lib/relay/journal.json", role: "server", log });
  const deps = { exec: systemExec(), journal, sysctl: linuxSysctl({ journal, log }), netAdmin: true, log };
  const signal = AbortSignal.timeout(60_000);
  listen(async (order) => {
    if (order.do === "reset") return resetKernelRelay(deps, signal);
    if (order.do !== "prepare") throw new Error(`A system cannot ${order.do}.`);
    const prepared = await prepareKernelRelay(deps, { addresses, trialPort: 40_000 }, signal);
    return "reason" in prepared ? prepared : { families: [...prepared.families] };
  });
}

function listen(obey: (order: ActorOrder) => Promise<unknown>): void {
  void rm(socketPath, { force: true }).then(() => {
    Bun.serve({
      unix: socketPath,
      async fetch(request) {
        const said = await obey((await request.json()) as ActorOrder);
        return Response.json({ said: said ?? null });
      },
    });
    console.log("ready");
  });
}
