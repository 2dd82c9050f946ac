// The settings of each role: flag, environment, file, what was chosen while it ran, default, in this order, parsed once into a frozen value.
import { readFile } from "node:fs/promises";
import { z } from "zod";
import { errorText, HiggsError } from "../base/errors.ts";
import { LOG_LEVELS } from "../base/log.ts";
import { UNTESTED_FLAG, usualDirs } from "../net/platform.ts";
import { readChosen } from "../peer/settings.ts";
import { EXIT_SETTINGS } from "./exit-settings.ts";
import { proxyElsewhere, proxySetting } from "./proxy-setting.ts";
import {
  cidr,
  domain,
  hostPort,
  list,
  optional,
  pathList,
  port,
  portRange,
  quota,
  text,
  toggle,
} from "./setting-schemas.ts";

export class UsageError extends HiggsError {
  override readonly name = "UsageError";
}

export type AnyRole = "server" | "node" | "client";
export type Source = "flag" | "environment" | "file" | "chosen" | "default";

interface Setting {
  /** As commander writes it: `--port <n>`, `--no-exit`, `--dns <url...>`. */
  readonly flags: string;
  readonly about: string;
  readonly schema: z.ZodType;
  readonly default: unknown;
  /** May be chosen while the role runs, by `set`; kept in the state folder. */
  readonly live?: true;
  /** What other programs' variables say, where ours and the file say nothing. */
  readonly elsewhere?: (env: Readonly<Record<string, string | undefined>>) => unknown;
  /** May hold a password: messages do not repeat it. */
  readonly isSecret?: boolean;
}

const USUAL = usualDirs();

function common(role: AnyRole) {
  return {
    state: {
      flags: "--state <dir>",
      about: "keys, database, journal",
      schema: text,
      default: `${USUAL.state}/${role}`,
    },
    run: { flags: "--run <dir>", about: "control sockets", schema: text, default: `${USUAL.run}/${role}` },
    logLevel: {
      flags: "--log-level <level>",
      about: LOG_LEVELS.join(" | "),
      schema: z.enum(["error", "warn", "info", "debug", "trace"]),
      default: "info",
    },
    logFormat: {
      flags: "--log-format <format>",
      about: "auto | text | json",
      schema: z.enum(["auto", "text", "json"]),
      default: "auto",
    },
  } as const;
}

function machine(role: "node" | "client") {
  return {
    ...common(role),
    name: {
      flags: "--name <name>",
      about: "this machine's name; default: the host's",
      schema: optional(text),
      default: null,
    },
    port: {
      flags: "--port <n>",
      about: "WireGuard's UDP port; default: drawn once and kept",
      schema: optional(port),
      default: null,
    },
    wireguard: {
      flags: "--wireguard <which>",
      about: "auto | kernel | carried | path",
      schema: z.enum(["auto", "kernel", "carried", "path"]),
      default: "auto",
    },
    paths: {
      flags: "--paths <list>",
      about: "which paths may be used: direct, udp-relay, wss",
      schema: pathList,
      default: "direct,udp-relay,wss",
    },
    portGuessing: {
      flags: "--no-port-guessing",
      about: "never try ports of another machine's router at random",
      schema: toggle,
      default: true,
    },
    proxy: {
      flags: "--proxy <url>",
      about:
        "the HTTP proxy to the server: http://[USER:PASSWORD@]HOST:PORT, file:PATH, or none; default: as last time, then HTTPS_PROXY",
      schema: optional(proxySetting),
      default: null,
      elsewhere: proxyElsewhere,
      isSecret: true,
    },
    portMapping: {
      flags: "--no-port-mapping",
      about: "ask the router for no port (PCP, NAT-PMP, UPnP)",
      schema: toggle,
      default: true,
    },
    libexec: {
      flags: "--libexec <dir>",
      about: "where the carried wireguard-go is written",
      schema: text,
      default: "/var/lib/higgs/libexec",
    },
    untestedPlatform: {
      flags: UNTESTED_FLAG,
      about: "run on macOS or Windows too, where higgs was written from the manuals and never tried",
      schema: toggle,
      default: false,
    },
  } as const;
}

const SERVER = {
  ...common("server"),
  listen: {
    flags: "--listen <address>",
    about: "host and port for everything but STUN",
    schema: hostPort,
    default: "[::]:443",
  },
  public: {
    flags: "--public <host>",
    about: "HOST[:PORT] by which machines reach this server; default: its addresses",
    schema: optional(hostPort),
    default: null,
  },
  networkRange: {
    flags: "--network-range <cidr>",
    about: "private IPv4 prefix of the tunnel, /16 to /24; default: drawn from 10.64.0.0/10 at the first start",
    schema: optional(cidr),
    default: null,
  },
  trustedProxy: {
    flags: "--trusted-proxy <cidr...>",
    about: "whose X-Forwarded-For is believed",
    schema: list,
    default: [],
  },
  relayPorts: {
    flags: "--relay-ports <range>",
    about: "UDP ports of the relay, one for each session: FIRST-LAST",
    schema: portRange,
    default: "40000-40999",
  },
  relayQuota: {
    flags: "--relay-quota <limit>",
    about:
      "what each machine may have relayed: SIZE/day or SIZE/month, such as 50GB/month; default: none, as much as it likes",
    schema: quota,
    default: null,
  },
  stunPort: { flags: "--stun-port <n>", about: "UDP port of the STUN responder", schema: port, default: 3478 },
  db: {
    flags: "--db <url>",
    about: "file:PATH or libsql://HOST; default: a file in --state",
    schema: optional(text),
    default: null,
  },
  tls: {
    flags: "--tls <how>",
    about: "self | files | off",
    schema: z.enum(["self", "acme", "files", "off"]),
    default: "self",
  },
  cert: {
    flags: "--cert <file>",
    about: "certificate (PEM) for --tls files or off",
    schema: optional(text),
    default: null,
  },
  key: { flags: "--key <file>", about: "private key (PEM) for --tls files", schema: optional(text), default: null },
} as const satisfies Record<string, Setting>;

const NODE = {
  ...machine("node"),
  join: {
    flags: "--join <invite>",
    about: "enrol first: an invite, file:PATH, or - for standard input",
    schema: optional(text),
    default: null,
  },
  exit: { flags: "--no-exit", about: "offer no exit to the internet", schema: toggle, default: true },
  endpoint: {
    flags: "--endpoint <host:port>",
    about: "a UDP port that the router forwards to --port; HOST may be a name",
    schema: optional(hostPort),
    default: null,
  },
  ...EXIT_SETTINGS,
  dns: {
    flags: "--dns <url...>",
    about: "where names are asked: https://HOST/dns-query, tls://HOST[#NAME], or udp://ADDRESS",
    schema: list,
    default: [],
  },
  dnsCa: {
    flags: "--dns-ca <file>",
    about: "root certificate (PEM) of a private DNS server over HTTPS or TLS",
    schema: optional(text),
    default: null,
  },
  dnsBlock: {
    flags: "--dns-block <file...>",
    about: "names that do not exist for clients: lists of hosts or domains, read again when they change",
    schema: list,
    default: [],
  },
  dnsPrivate: {
    flags: "--dns-private <domain...>",
    about: "domains whose names may have private addresses",
    schema: z.pipe(list, z.array(domain)),
    default: [],
  },
} as const satisfies Record<string, Setting>;

const CLIENT = {
  ...machine("client"),
  join: {
    flags: "--join <invite>",
    about: "enrol first: an invite, file:PATH, or - for standard input",
    schema: optional(text),
    default: null,
  },
  exit: {
    flags: "--exit <name>",
    about: "NAME | auto | none; default: as last time, auto at first",
    schema: optional(text),
    default: null,
  },
  firewall: {
    flags: "--no-firewall",
    about:
      "connect also where neither nft nor iptables does any work: what a program binds to another interface then passes beside the tunnel",
    schema: toggle,
    default: true,
  },
  lockdown: {
    flags: "--lockdown",
    about: "switches the kill switch on, for good; off: higgs client lockdown off",
    schema: optional(toggle),
    default: null,
  },
  lan: {
    flags: "--lan",
    about: "keeps the LAN reachable; default: as last time, not at first",
    schema: optional(toggle),
    default: null,
  },
} as const satisfies Record<string, Setting>;

const SETTINGS = { server: SERVER, node: NODE, client: CLIENT } as const;
type Settings = typeof SETTINGS;

export type Config<R extends AnyRole> = {
  readonly [K in keyof Settings[R]]: Settings[R][K] extends { readonly schema: infer S extends z.ZodType }
    ? z.output<S>
    : never;
};

export interface Resolved<R extends AnyRole> {
  readonly config: Config<R>;
  readonly sources: Readonly<Record<string, Source>>;
}

/** What the CLI makes options of. */
export function settingsOf(role: AnyRole): Readonly<Record<string, Setting>> {
  return SETTINGS[role];
}

/** `--stun-port` is `stun-port`. */
export function settingName(flags: string): string {
  return (flags.split(" ")[0] ?? flags).replace(/^--/, "");
}

/** `--stun-port` is HIGGS_STUN_PORT; `--no-exit` is HIGGS_NO_EXIT. */
export function environmentName(flags: string): string {
  const flag = flags.split(" ")[0] ?? flags;
  return `HIGGS_${flag.replace(/^--/, "").replaceAll("-", "_").toUpperCase()}`;
}

/** The file that may hold settings as JSON, by their flag's name: `{ "stun-port": 3478 }`. Nobody needs one. */
export function configFilePath(role: AnyRole): string {
  return `/etc/higgs/${role}.json`;
}

/** Throws UsageError `bad-setting` that names the value and where it came from. */
export async function resolveConfig<R extends AnyRole>(
  role: R,
  flags: Readonly<Record<string, unknown>>,
  env: Readonly<Record<string, string | undefined>>,
  filePath: string = configFilePath(role),
): Promise<Resolved<R>> {
  const file = await readConfigFile(filePath);
  const values: Record<string, unknown> = {};
  const sources: Record<string, Source> = {};
  let chosen: Readonly<Record<string, string>> | null = null;
  for (const [key, setting] of Object.entries(settingsOf(role))) {
    // The folder comes first among a role's settings.
    if (setting.live === true) chosen ??= await readChosen(String(values["state"]));
    const { value, source } = effective(key, setting, { flags, env, file, chosen: chosen ?? {} });
    const parsed = setting.schema.safeParse(value);
    if (!parsed.success) {
      const shown = setting.isSecret === true ? "what was given" : JSON.stringify(value);
      throw new UsageError(
        `Cannot use ${shown} for ${setting.flags.split(" ")[0]} (from ${source}): ${parsed.error.issues[0]?.message ?? "it is wrong"}.`,
        { code: "bad-setting", remedy: `${setting.flags}: ${setting.about}` },
      );
    }
    values[key] = parsed.data;
    sources[key] = source;
  }
  return { config: Object.freeze(values) as Config<R>, sources };
}

interface Layers {
  readonly flags: Readonly<Record<string, unknown>>;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly file: Readonly<Record<string, unknown>>;
  readonly chosen: Readonly<Record<string, string>>;
}

function effective(
  key: string,
  setting: Setting,
  layers: Layers,
): { readonly value: unknown; readonly source: Source } {
  const flagName = (setting.flags.split(" ")[0] ?? "").replace(/^--/, "");
  if (layers.flags[key] !== undefined) return { value: layers.flags[key], source: "flag" };
  const fromEnv = layers.env[environmentName(setting.flags)];
  if (fromEnv !== undefined && fromEnv !== "") return { value: negated(flagName, fromEnv), source: "environment" };
  if (layers.file[flagName] !== undefined) return { value: negated(flagName, layers.file[flagName]), source: "file" };
  if (setting.live === true && layers.chosen[flagName] !== undefined) {
    return { value: layers.chosen[flagName], source: "chosen" };
  }
  const elsewhere = setting.elsewhere?.(layers.env) ?? null;
  if (elsewhere !== null) return { value: elsewhere, source: "environment" };
  return { value: setting.default, source: "default" };
}

/** `HIGGS_NO_EXIT=1` means that `exit` is off. */
function negated(flagName: string, value: unknown): unknown {
  if (!flagName.startsWith("no-")) return value;
  const on = toggle.safeParse(value);
  return on.success ? !on.data : value;
}

async function readConfigFile(path: string): Promise<Readonly<Record<string, unknown>>> {
  let content: string;
  try {
    content = await readFile(path, "utf8");
  } catch (thrown) {
    if ((thrown as { code?: string }).code === "ENOENT" || (thrown as { code?: string }).code === "ENOTDIR") return {};
    throw new UsageError(`Cannot read ${path}: ${errorText(thrown)}.`, { code: "bad-setting", cause: thrown });
  }
  try {
    return z.record(z.string(), z.unknown()).parse(JSON.parse(content));
  } catch (cause) {
    throw new UsageError(`Cannot use ${path}: it is no JSON object.`, {
      code: "bad-setting",
      remedy: "Mend it, or take it away.",
      cause,
    });
  }
}
