// The layers: who may import whom and who may touch what, each with its reason.

import { dottedName, type Source } from "./source.ts";

export type Layer = "base" | "proto" | "net" | "peer" | "server" | "node" | "client" | "roles" | "cli" | "lab";

interface LayerRule {
  readonly imports: readonly Layer[];
  /** Why not more than these. */
  readonly because: string;
}

const peers = ["base", "proto", "net", "peer"] as const;

export const layers: Readonly<Record<Layer, LayerRule>> = {
  base: { imports: [], because: "Everything stands on it, so it stands on nothing." },
  proto: { imports: ["base"], because: "Wire formats must be testable and reusable with nothing running." },
  net: {
    imports: ["base", "proto"],
    because: "What the operating system does for us must not know of servers, users or policy.",
  },
  peer: {
    imports: ["base", "proto", "net"],
    because: "It is what node and client share; knowing one of them would make it that one's.",
  },
  server: {
    imports: ["base", "proto", "net"],
    because: "The server never is an end of a tunnel: what ends do must not leak into what only passes ciphertext on.",
  },
  node: {
    imports: peers,
    because: "A node is no client and no server; what two of them need belongs into a lower layer.",
  },
  client: {
    imports: peers,
    because: "A client is no node and no server; what two of them need belongs into a lower layer.",
  },
  roles: {
    imports: [...peers, "server", "node", "client"],
    because: "Services are constructed here; the command line only asks for a role.",
  },
  lab: {
    imports: ["base", "net"],
    because: "The little internet must not know what runs in it, or it would prove nothing.",
  },
  cli: {
    imports: [...peers, "server", "node", "client", "roles", "lab"],
    because: "Nothing may depend on how a person types.",
  },
};

interface Restriction {
  readonly what: RegExp;
  /** Files and folders that may. */
  readonly only: readonly string[];
  readonly because: string;
}

const packages: readonly Restriction[] = [
  {
    what: /^(@libsql\/client|libsql|drizzle-orm)(\/|$)/,
    only: ["src/server/"],
    because: "Only the server has a database.",
  },
  { what: /^commander$/, only: ["src/cli/"], because: "Only the command line knows of flags." },
  { what: /^pino(\/|$)/, only: ["src/base/log.ts"], because: "Everybody else takes the Logger interface." },
  { what: /\.sql$/, only: ["src/server/db/"], because: "Migrations are the database's own." },
  { what: /^bun:sqlite$/, only: [], because: "The database is libSQL, so that the same code takes a libsql:// URL." },
];

/** What node's modules a layer may name; layers that are not listed may name any. */
const nodeModules: Partial<Record<Layer, { readonly allowed: RegExp; readonly because: string }>> = {
  base: { allowed: /^node:(async_hooks|buffer|crypto|events|timers|util)(\/|$)/, because: "base does no I/O." },
  proto: { allowed: /^node:(buffer|crypto|util)(\/|$)/, because: "proto does no I/O and knows no clock." },
};

interface GlobalRule extends Restriction {
  readonly layers: readonly Layer[] | "all";
}

const io = /^(Bun\.\w+|fetch|WebSocket|EventSource|process\.(stdin|stdout|stderr|env|exit|kill|chdir|cwd|on|once))$/;
const clock =
  /^(Date\.now|performance\.\w+|process\.(hrtime|uptime)|set(Timeout|Interval|Immediate)|queueMicrotask|AbortSignal\.timeout)$/;

const globals: readonly GlobalRule[] = [
  { layers: ["base", "proto"], what: io, only: ["src/base/log.ts"], because: "base and proto do no I/O." },
  { layers: ["proto"], what: clock, only: [], because: "proto knows no clock: what time it is, is an argument." },
  {
    layers: "all",
    what: /^(process\.env|Bun\.env)$/,
    // exec.ts hands the search path on to the tools that it starts.
    only: ["src/roles/", "src/cli/", "src/lab/", "src/net/exec.ts"],
    because: "Configuration is parsed once, in roles; what else a function needs is an argument.",
  },
];

/** The layer of a file below src/, or `undefined` where there is none. */
export function layerOf(path: string): Layer | undefined {
  const folder = /^src\/([^/]+)\//.exec(path)?.[1];
  return folder !== undefined && folder in layers ? (folder as Layer) : undefined;
}

/** One sentence for each breach in one file. */
export function layerBreaches(source: Source): string[] {
  const from = layerOf(source.path);
  if (from === undefined) return [`${source.path} lies in no layer: the layers are ${Object.keys(layers).join(", ")}`];
  return [...importBreaches(source, from), ...globalBreaches(source, from)];
}

function importBreaches(source: Source, from: Layer): string[] {
  const breaches: string[] = [];
  for (const { specifier, target } of source.imports) {
    const say = (because: string) => breaches.push(`${source.path} imports "${specifier}": ${because}`);
    if (specifier === "(computed)") say("A computed import cannot be checked, nor bundled.");
    for (const { what, only, because } of packages) {
      if (what.test(target) && !only.some((place) => source.path.startsWith(place))) say(because);
    }
    const allowedNode = nodeModules[from];
    if (/^(node|bun):/.test(specifier) || specifier === "bun") {
      if (allowedNode !== undefined && !allowedNode.allowed.test(specifier) && source.path !== "src/base/log.ts") {
        say(allowedNode.because);
      }
    }
    if (!specifier.startsWith(".")) continue;
    const to = layerOf(target);
    if (to === undefined) {
      if (!target.startsWith("migrations/")) say("Beside src/ there is nothing to import but migrations/.");
    } else if (to !== from && !layers[from].imports.includes(to)) {
      say(`${from} may import ${layers[from].imports.join(", ") || "nothing"}. ${layers[from].because}`);
    }
  }
  return breaches;
}

function globalBreaches(source: Source, from: Layer): string[] {
  const breaches = new Set<string>();
  const check = (name: string | undefined) => {
    if (name === undefined) return;
    for (const { layers: where, what, only, because } of globals) {
      if (where !== "all" && !where.includes(from)) continue;
      if (!what.test(name) || only.some((place) => source.path.startsWith(place))) continue;
      breaches.add(`${source.path} uses ${name}: ${because}`);
    }
  };
  const declared = declaredNames(source);
  source.visit({
    MemberExpression: (node) => {
      check(dottedName(node));
    },
    CallExpression: ({ callee }) => {
      if (callee.type === "Identifier" && !declared.has(callee.name)) check(callee.name);
    },
    NewExpression: ({ callee, arguments: given }) => {
      if (callee.type !== "Identifier" || declared.has(callee.name)) return;
      // `new Date(text)` is arithmetic; only `new Date()` looks at the clock.
      check(callee.name === "Date" && given.length === 0 ? "Date.now" : callee.name);
    },
  });
  return [...breaches];
}

/** Functions and imports of the file itself, which may be called like a global one. */
function declaredNames(source: Source): Set<string> {
  const names = new Set<string>();
  source.visit({
    FunctionDeclaration: ({ id }) => {
      if (id !== null) names.add(id.name);
    },
    ImportDeclaration: ({ specifiers }) => {
      for (const { local } of specifiers) names.add(local.name);
    },
  });
  return names;
}
