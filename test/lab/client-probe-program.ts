// Runs in the lab's hosts: sends what could leak, and kills a program at a chosen moment of its way up or down.
import { createSocket } from "node:dgram";
import { readFileSync } from "node:fs";
import { connect } from "node:net";
import type { Killed, KillPlan } from "./client-lab.ts";

const [mode = "", argument = ""] = process.argv.slice(2);
if (mode === "probe") await probe();
else if (mode === "kill") console.log(JSON.stringify(await killAt(JSON.parse(argument) as KillPlan)));
else throw new Error(`There is no mode "${mode}".`);

/** UDP and TCP in both families to the web, and names asked of the internet's resolver and of the café's router. */
async function probe(): Promise<void> {
  const udp4 = createSocket("udp4").on("error", () => undefined);
  const udp6 = createSocket("udp6").on("error", () => undefined);
  const ignore = (): undefined => undefined; // what cannot be sent does not leak
  // "web.lab.example" A, with recursion desired (RFC 1035, section 4.1).
  const query = Buffer.from("0001010000010000000000000377656203 6c6162076578616d706c650000010001".replaceAll(" ", ""), "hex");
  for (let round = 1; ; round++) {
    udp4.send("higgs leak probe", 9999, "203.0.113.80", ignore);
    udp6.send("higgs leak probe", 9999, "2001:db8:80::80", ignore);
    udp4.send(query, 53, "203.0.113.53", ignore);
    udp6.send(query, 53, "2001:db8:53::53", ignore);
    udp4.send(query, 53, "192.168.7.1", ignore);
    for (const host of ["203.0.113.80", "2001:db8:80::80"]) {
      const socket = connect({ host, port: 80 });
      socket.on("error", ignore);
      socket.on("connect", () => socket.end("GET / HTTP/1.0\r\n\r\n"));
      socket.setTimeout(2000, () => socket.destroy());
    }
    console.log(`round ${round}`);
    await Bun.sleep(100);
  }
}

async function killAt(plan: KillPlan): Promise<Killed> {
  const child = Bun.spawn([...plan.command], { stdin: "ignore", stdout: "ignore", stderr: "ignore" });
  const entries = (): number => {
    try {
      return (JSON.parse(readFileSync(plan.journalPath, "utf8")) as { undo: unknown[] }).undo.length;
    } catch {
      return 0; // there is none
    }
  };
  const isOver = (): boolean => child.exitCode !== null || child.signalCode !== null;
  const reach = async (met: () => boolean): Promise<void> => {
    const end = performance.now() + 10_000;
    // Gives way to others and to the news of the child's end, but sleeps for nothing.
    while (!met() && !isOver() && performance.now() < end) await new Promise((resolve) => setImmediate(resolve));
  };
  const { at } = plan;
  if (at.kind === "delay") await Promise.race([Bun.sleep(at.ms), child.exited]);
  if (at.kind === "entries") await reach(() => entries() >= at.count);
  if (at.kind === "entries-left" || at.kind === "delay-down") {
    await reach(() => entries() >= at.full);
    child.kill("SIGTERM");
    if (at.kind === "entries-left") await reach(() => entries() <= at.count);
    else await Promise.race([Bun.sleep(at.ms), child.exited]);
  }
  const killed = !isOver();
  child.kill("SIGKILL");
  await child.exited;
  return { killed, entries: entries() };
}
