// The name servers of DHCP leases that dhclient keeps on disk: whoever writes just these into resolv.conf is dhclient.
import { open, readdir } from "node:fs/promises";
import { join } from "node:path";
import { type Lease, leasesIn } from "./resolv-conf-writer.ts";

/** Debian's, and Fedora's and Arch's; NetworkManager's own are not written for a script. */
const LEASE_DIRS: readonly string[] = ["/var/lib/dhcp", "/var/lib/dhclient"];
/** The newest are at the end: dhclient appends, and begins anew now and then. */
const TAIL_BYTES = 65_536;
const FILES_LIMIT = 16;

/** None where they may not be read. */
export async function dhcpLeases(dirs: readonly string[] = LEASE_DIRS): Promise<readonly Lease[]> {
  const paths: string[] = [];
  for (const dir of dirs) {
    const names: string[] = await readdir(dir).catch(() => []);
    paths.push(...names.filter((name) => /^dhclient.*\.leases?$/.test(name)).map((name) => join(dir, name)));
  }
  const texts = await Promise.all(paths.slice(0, FILES_LIMIT).map((path) => tailOf(path).catch(() => "")));
  return texts.flatMap(leasesIn);
}

async function tailOf(path: string): Promise<string> {
  const file = await open(path, "r");
  try {
    const { size } = await file.stat();
    const buffer = Buffer.alloc(Math.min(size, TAIL_BYTES));
    const { bytesRead } = await file.read(buffer, 0, buffer.length, Math.max(0, size - TAIL_BYTES));
    return buffer.toString("latin1", 0, bytesRead);
  } finally {
    await file.close();
  }
}
