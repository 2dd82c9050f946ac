// Runs on a lab router: maps ports as its manners say, and really forwards what is mapped.
import { type FakeGatewayOptions, fakeGateway, type FakeMapping } from "../unit/net/port-mapping/fake-gateway.ts";

const options = JSON.parse(process.argv[2] ?? "{}") as FakeGatewayOptions;

/** The whole table anew. */
async function forward(mappings: ReadonlyMap<number, FakeMapping>): Promise<void> {
  const rules = [...mappings].map(
    ([port, to]) => `    iifname "wan" udp dport ${port} dnat to ${to.client}:${to.internalPort}`,
  );
  const table = [
    "add table ip mapped",
    "delete table ip mapped",
    "table ip mapped {",
    "  chain pre {",
    "    type nat hook prerouting priority dstnat - 1; policy accept;",
    ...rules,
    "  }",
    "}",
    "",
  ].join("\n");
  const child = Bun.spawn(["nft", "-f", "-"], { stdin: new TextEncoder().encode(table), stderr: "inherit" });
  await child.exited;
  console.log(`mapped ${[...mappings.keys()].join(" ")}`);
}

const gateway = await fakeGateway({ ...options, onChange: forward });
process.on("SIGUSR1", () => console.log(`asked ${gateway.asked.join(", ")}`));
console.log("serving");
