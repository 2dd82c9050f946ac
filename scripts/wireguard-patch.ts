// What is mended in wireguard-go's source before it is built: exact places, or the build fails and somebody looks again.

import { createHash } from "node:crypto";
import { cp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

interface Mend {
  readonly file: string;
  readonly why: string;
  readonly from: string;
  readonly to: string;
}

const mends: readonly Mend[] = [
  {
    file: "conn/bind_std.go",
    // An address of 16 bytes was copied into a slice that an IPv4 packet had left 4 bytes long, and the slice lengthened after it:
    // packets to 2001:db8:66:1::2 left for 2001:db8::. It hits whoever has endpoints of both families on one device, as higgs has
    // when a peer moves from the bridge on 127.0.0.1 to a path over IPv6.
    why: "lengthen the address before it is copied",
    from: "copy(ua.IP, as16[:])\n\t\tua.IP = ua.IP[:16]",
    to: "ua.IP = ua.IP[:16]\n\t\tcopy(ua.IP, as16[:])",
  },
];

/** Part of what an earlier build is known by. */
export const patchVersion: string = createHash("sha256").update(JSON.stringify(mends)).digest("hex").slice(0, 8);

/** A copy of the module's folder, mended. Throws when the source is not as expected: then a new version may need no mending. */
export async function patchedSource(moduleDir: string, to: string): Promise<string> {
  const temporary = `${to}.${String(process.pid)}.tmp`;
  await rm(temporary, { recursive: true, force: true });
  // The module cache is read-only, and so would the copy be.
  await cp(moduleDir, temporary, { recursive: true, mode: 0 });
  const chmod = Bun.spawnSync(["chmod", "-R", "u+w", temporary]);
  if (chmod.exitCode !== 0) throw new Error(`Cannot make ${temporary} writable.`);
  for (const { file, why, from, to: mended } of mends) {
    const path = join(temporary, file);
    const source = await readFile(path, "utf8");
    if (source.split(from).length !== 2)
      throw new Error(`Cannot mend ${file} ("${why}"): its source is not as expected.`);
    await writeFile(
      path,
      source.replace(from, () => mended),
    );
  }
  await rm(to, { recursive: true, force: true });
  await rename(temporary, to);
  return to;
}
