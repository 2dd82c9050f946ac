// Which HTTP proxy a role uses: the one that was named now, the one of last time, or the one of the environment.
import { utf8Text } from "../base/bytes.ts";
import { type HttpProxy, parseProxy, redactedUrl } from "../net/http-proxy.ts";
import { readSecretFile } from "../net/secret-file.ts";
import { chosenProxy, chosenProxyAt, choosePermanently, ProxyUse } from "../peer/proxy-use.ts";
import type { StateDir } from "../peer/state-dir.ts";
import { UsageError } from "./config.ts";
import { PROXY_VARIABLES, type ProxySetting } from "./proxy-setting.ts";

const NONE = "none";
const FILE = "file:";

/** What was named is remembered until something else is, or "none". Throws UsageError `bad-proxy`. */
export async function openProxy(dir: StateDir, setting: ProxySetting | null): Promise<ProxyUse | null> {
  const use = await findProxy(dir, setting);
  if (setting?.isNamed === true) await choosePermanently(dir, setting.text === NONE ? null : setting.text);
  return use;
}

/** The same for whoever only looks: nothing is remembered. */
export async function findProxy(dir: StateDir, setting: ProxySetting | null): Promise<ProxyUse | null> {
  ignoreEnvironment();
  const { text, except } = effective(await chosenProxy(dir), setting);
  const proxy = text === null ? null : await readProxy(text, setting);
  return proxy === null ? null : await ProxyUse.open(dir, { proxy, except });
}

/** For `config show`: what would be used, without its credentials, and whether it is that of last time. */
export async function proxyShown(
  stateDir: string,
  setting: ProxySetting | null,
): Promise<{ readonly value: string | null; readonly isRemembered: boolean }> {
  const { text, isRemembered } = effective(await chosenProxyAt(stateDir), setting);
  const proxy = text === null ? null : parseProxy(text);
  return { value: proxy === null ? text : redactedUrl(proxy), isRemembered };
}

function effective(chosen: string | null, setting: ProxySetting | null) {
  if (setting?.isNamed === true)
    return { ...setting, text: setting.text === NONE ? null : setting.text, isRemembered: false };
  if (chosen !== null) return { text: chosen, except: "", isRemembered: true };
  return { text: setting?.text ?? null, except: setting?.except ?? "", isRemembered: false };
}

async function readProxy(text: string, setting: ProxySetting | null): Promise<HttpProxy> {
  if (!text.startsWith(FILE)) return parsed(text, setting?.isNamed === false ? "HTTPS_PROXY" : "--proxy");
  const path = text.slice(FILE.length);
  const bytes = await readSecretFile(path);
  if (bytes !== null) return parsed(utf8Text(bytes).trim(), path);
  throw new UsageError(`Cannot read the proxy from "${path}": there is no such file.`, {
    code: "bad-proxy",
    remedy: "One line, in a file that only its owner reads: http://[USER:PASSWORD@]HOST:PORT",
  });
}

function parsed(text: string, from: string): HttpProxy {
  const proxy = parseProxy(text);
  if (proxy !== null) return proxy;
  throw new UsageError(`Cannot use the proxy of ${from}: it is no http://[USER:PASSWORD@]HOST:PORT.`, {
    code: "bad-proxy",
    remedy: "--proxy http://HOST:PORT, or --proxy none",
  });
}

/** Whoever lists this machine's processes would read it. */
export function holdsPassword(setting: ProxySetting | null): boolean {
  return setting !== null && parseProxy(setting.text)?.credentials != null;
}

/** The runtime's own fetch would follow these, for connections that are none of the server's, and past --proxy none. */
function ignoreEnvironment(): void {
  for (const name of PROXY_VARIABLES) delete process.env[name];
}
