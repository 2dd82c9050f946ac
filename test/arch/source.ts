// Reads the project's sources as syntax trees, so that the rules see code and not text.

import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize, resolve } from "node:path";
import { type Node, parseSync, Visitor } from "oxc-parser";

export const projectDir = resolve(import.meta.dir, "../..");

export interface Import {
  /** As written. */
  readonly specifier: string;
  /** Relative ones from the project's root, such as "src/base/ip.ts"; others as written. */
  readonly target: string;
}

export interface Source {
  /** From the project's root. */
  readonly path: string;
  readonly lines: readonly string[];
  /** Everything that names a module: imports, type imports, `import("…")` as value and as type, re-exports. */
  readonly imports: readonly Import[];
  readonly hasDefaultExport: boolean;
  readonly hasStarExport: boolean;
  visit(visitor: ConstructorParameters<typeof Visitor>[0]): void;
}

/** Every file of a folder, from the project's root and sorted; an absent folder has none. */
export function filesIn(folder: string): string[] {
  const entries = (() => {
    try {
      return readdirSync(join(projectDir, folder), { recursive: true, withFileTypes: true });
    } catch (error) {
      if (error instanceof Error && "code" in error && error.code === "ENOENT") return [];
      throw error;
    }
  })();
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(projectDir.length + 1))
    .sort();
}

export function sourcesIn(folder: string): Source[] {
  return filesIn(folder)
    .filter((path) => path.endsWith(".ts"))
    .map((path) => parse(path, readFileSync(join(projectDir, path), "utf8")));
}

/** `path` decides what relative imports mean; the file need not exist. */
export function parse(path: string, text: string): Source {
  const { program, module, errors } = parseSync(path, text);
  const broken = errors[0];
  if (broken !== undefined) throw new Error(`Cannot parse "${path}": ${broken.message}`);

  const specifiers: string[] = [];
  for (const { moduleRequest } of module.staticImports) specifiers.push(moduleRequest.value);
  const exported = module.staticExports.flatMap(({ entries }) => entries);
  for (const { moduleRequest } of exported) if (moduleRequest !== null) specifiers.push(moduleRequest.value);
  const visit = (visitor: ConstructorParameters<typeof Visitor>[0]) => new Visitor(visitor).visit(program);
  visit({
    ImportExpression: ({ source }) => {
      // A computed name could be anything, so it is reported as itself and no rule lets it pass.
      specifiers.push(textOf(source) ?? "(computed)");
    },
    TSImportType: ({ source }) => {
      specifiers.push(source.value);
    },
  });

  return {
    path,
    lines: text.split("\n"),
    imports: specifiers.map((specifier) => ({ specifier, target: targetOf(path, specifier) })),
    hasDefaultExport: exported.some(({ exportName }) => exportName.kind === "Default" || exportName.name === "default"),
    hasStarExport: exported.some(({ importName }) => importName.kind !== "Name" && importName.kind !== "None"),
    visit,
  };
}

/** The value of a string literal, or of a template without expressions. */
export function textOf(node: Node): string | undefined {
  if (node.type === "Literal" && typeof node.value === "string") return node.value;
  if (node.type === "TemplateLiteral" && node.expressions.length === 0)
    return node.quasis[0]?.value.cooked ?? undefined;
  return undefined;
}

/** `a.b.c` as text, for names and for members that are not computed. */
export function dottedName(node: Node): string | undefined {
  if (node.type === "Identifier") return node.name;
  if (node.type === "MemberExpression" && !node.computed) {
    const object = dottedName(node.object);
    return object === undefined ? undefined : `${object}.${node.property.name}`;
  }
  return undefined;
}

function targetOf(path: string, specifier: string): string {
  return specifier.startsWith(".") ? normalize(join(dirname(path), specifier)) : specifier;
}
