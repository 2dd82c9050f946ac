// The HTTP proxy of this machine: for which servers it is used, and where it was when it was last reached.
import { join } from "node:path";
import { z } from "zod";
import { SerialQueue } from "../base/async.ts";
import { utf8Text } from "../base/bytes.ts";
import { type Endpoint, type HostPort, type IpAddress, parseIp } from "../base/ip.ts";
import { type HttpProxy, isExcepted, proxyName } from "../net/http-proxy.ts";
import { readSecretFile } from "../net/secret-file.ts";
import { ipAddressSchema } from "../proto/api.ts";
import type { StateDir } from "./state-dir.ts";

const keptSchema = z.object({
  version: z.literal(1),
  /** As the person wrote it, which may be with a password: this file is for its owner alone. Null for none. */
  chosen: z.string().nullable(),
  /** Resolved while DNS was outside the tunnel, so that a reconnect never needs the tunnel. */
  last: z.object({ name: z.string(), addresses: z.array(ipAddressSchema) }).nullable(),
});
type Kept = z.infer<typeof keptSchema>;

const NOTHING: Kept = { version: 1, chosen: null, last: null };

export interface ProxyChoice {
  readonly proxy: HttpProxy;
  /** NO_PROXY, or "". */
  readonly except: string;
}

/** What a person chose here earlier; null for nothing. */
export async function chosenProxy(dir: StateDir): Promise<string | null> {
  return (await dir.readJson("proxy.json", keptSchema))?.chosen ?? null;
}

/** The same for whoever only looks: nothing is made, and what may not be read is not known. */
export async function chosenProxyAt(stateDir: string): Promise<string | null> {
  try {
    const bytes = await readSecretFile(join(stateDir, "proxy.json"));
    return bytes === null ? null : keptSchema.parse(JSON.parse(utf8Text(bytes))).chosen;
  } catch {
    return null;
  }
}

export async function choosePermanently(dir: StateDir, chosen: string | null): Promise<void> {
  const before = (await dir.readJson("proxy.json", keptSchema)) ?? NOTHING;
  if (before.chosen !== chosen) await dir.writeJson("proxy.json", { ...before, chosen });
}

export class ProxyUse {
  readonly choice: ProxyChoice;
  readonly #dir: StateDir;
  readonly #writes = new SerialQueue();
  #kept: Kept;

  private constructor(dir: StateDir, choice: ProxyChoice, kept: Kept) {
    this.#dir = dir;
    this.choice = choice;
    this.#kept = kept;
  }

  static async open(dir: StateDir, choice: ProxyChoice): Promise<ProxyUse> {
    return new ProxyUse(dir, choice, (await dir.readJson("proxy.json", keptSchema)) ?? NOTHING);
  }

  /** Null for a server that NO_PROXY names. */
  for(server: HostPort): { readonly proxy: HttpProxy; readonly addresses: readonly IpAddress[] } | null {
    const { proxy, except } = this.choice;
    return isExcepted(server, except) ? null : { proxy, addresses: this.#addresses() };
  }

  /** Its exact places, which must stay outside the tunnel. */
  endpoints(): Endpoint[] {
    const { proxy } = this.choice;
    const literal = parseIp(proxy.server.host);
    const all = new Set(literal === null ? this.#addresses() : [...this.#addresses(), literal]);
    return [...all].map((address) => ({ address, port: proxy.server.port }));
  }

  /** The one that answered first. */
  async keep(addresses: readonly IpAddress[]): Promise<void> {
    const last = { name: proxyName(this.choice.proxy), addresses: [...addresses] };
    if (JSON.stringify(last) === JSON.stringify(this.#kept.last)) return;
    this.#kept = { ...this.#kept, last };
    await this.#writes.run(async () => {
      const now = (await this.#dir.readJson("proxy.json", keptSchema)) ?? NOTHING;
      await this.#dir.writeJson("proxy.json", { ...now, last });
    });
  }

  #addresses(): readonly IpAddress[] {
    return this.#kept.last?.name === proxyName(this.choice.proxy) ? this.#kept.last.addresses : [];
  }
}
