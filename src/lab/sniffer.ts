// Watches one interface of a host with tcpdump and keeps what it sees.
import { LabCommandFailed } from "./errors.ts";
import { pcapReader } from "./pcap.ts";
import type { Packet } from "./pcap.ts";
import { LAB_ENVIRONMENT } from "./spawn.ts";

export interface Sniffer extends AsyncDisposable {
  /** What was seen so far, oldest first, at most 200 000. */
  packets(): readonly Packet[];
  /** Forgets what was seen so far. */
  clear(): void;
  /** Ends the watching; what was seen stays. */
  stop(): Promise<void>;
}

const PACKETS_LIMIT = 200_000;

/** Resolves when tcpdump listens. `enter` puts the host before a command. */
export async function startSniffer(
  enter: (argv: readonly string[]) => readonly string[],
  options: { readonly interfaceName: string; readonly filter: string },
): Promise<Sniffer> {
  const filter = options.filter === "" ? [] : [options.filter];
  // -U and --immediate-mode: each packet at once; -Z root: tcpdump would otherwise give up its user, who may not exist here.
  const argv = [
    "tcpdump",
    "-i",
    options.interfaceName,
    "-n",
    "-U",
    "--immediate-mode",
    // In this mode each packet has a place of the longest packet's size: with tcpdump's own numbers there are eight.
    "-s",
    "65535",
    "-B",
    "16384",
    "-Z",
    "root",
    "-w",
    "-",
    ...filter,
  ];
  const child = Bun.spawn([...enter(argv)], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    cwd: "/",
    env: { ...LAB_ENVIRONMENT },
    detached: true,
  });
  const seen: Packet[] = [];
  const reading = (async (): Promise<void> => {
    const reader = pcapReader();
    for await (const chunk of child.stdout) {
      seen.push(...reader.push(chunk));
      if (seen.length > PACKETS_LIMIT) seen.splice(0, seen.length - PACKETS_LIMIT);
    }
  })();
  await untilListening(child.stderr, options.interfaceName);
  const stop = async (): Promise<void> => {
    child.kill("SIGKILL"); // its program goes with it; every packet that it saw is written already
    await child.exited;
    await reading;
  };
  return {
    packets: () => [...seen],
    clear: () => void seen.splice(0),
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

/** Goes on reading in the background afterwards, until tcpdump ends: a full pipe would stop it. */
function untilListening(stderr: ReadableStream<Uint8Array>, interfaceName: string): Promise<void> {
  const listening = Promise.withResolvers<void>();
  const read = async (): Promise<void> => {
    const decoder = new TextDecoder();
    let said = "";
    for await (const chunk of stderr) {
      said += decoder.decode(chunk, { stream: true });
      if (said.includes("listening on")) listening.resolve();
    }
    throw new LabCommandFailed(`Cannot sniff "${interfaceName}": ${said.trim()}.`, { code: "lab-command-failed" });
  };
  read().catch(listening.reject); // without effect once it listened
  return listening.promise;
}
