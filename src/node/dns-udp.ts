// Asks an upstream in plain text over UDP, where a person chose that: with a port and an id of its own for each question.
import { isIP } from "node:net";
import type { Endpoint } from "../base/ip.ts";
import { type AskUpstream, UpstreamError } from "./dns-upstream.ts";

export function askUdp(endpoint: Endpoint): AskUpstream {
  return async (question, signal) => {
    // The client's own id would be one thing less to guess for whoever sends false answers.
    const query = new Uint8Array(question);
    crypto.getRandomValues(query.subarray(0, 2));
    const answered = Promise.withResolvers<Uint8Array>();
    const failed = (): void => answered.reject(new UpstreamError("the address refuses DNS", { code: "dns-upstream" }));
    const socket = await Bun.udpSocket({
      hostname: isIP(endpoint.address) === 6 ? "::" : "0.0.0.0",
      port: 0,
      connect: { hostname: endpoint.address, port: endpoint.port },
      binaryType: "uint8array",
      socket: {
        data(_socket, answer) {
          // The socket is connected, so only that address reaches it; the id must be the query's.
          if (answer.length >= 12 && answer[0] === query[0] && answer[1] === query[1]) answered.resolve(answer.slice());
        },
        error: failed,
      },
    });
    const onAbort = (): void => answered.reject(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      socket.send(query);
      const answer = await answered.promise;
      answer.set(question.subarray(0, 2));
      return answer;
    } finally {
      signal.removeEventListener("abort", onAbort);
      socket.close();
    }
  };
}
