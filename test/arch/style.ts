// The rules of style that a syntax tree can show, each as a function from a file to its breaches.

import { basename } from "node:path";
import type { Node } from "oxc-parser";
import { dottedName, type Source, textOf } from "./source.ts";

const kebabCase = /^[a-z0-9]+(-[a-z0-9]+)*(\.(test|program|d))?\.ts$/;
const saysNothing = /^(utils?|helpers?|manager|common|misc|shared|index)\b/;
const longestFile = 400;

export function nameBreaches({ path }: Source): string[] {
  const name = basename(path);
  if (!kebabCase.test(name)) return [`${path} is not kebab-case`];
  return saysNothing.test(name) ? [`${path} has a name that says nothing`] : [];
}

export function lengthBreaches({ path, lines }: Source): string[] {
  const count = lines.at(-1) === "" ? lines.length - 1 : lines.length;
  if (count <= longestFile || /^\/\/ long because \S/.test(lines[1] ?? "")) return [];
  return [`${path} has ${count} lines and no "// long because …" on line 2`];
}

export function moduleBreaches(source: Source): string[] {
  const breaches: string[] = [];
  if (source.hasDefaultExport) breaches.push(`${source.path} has a default export`);
  if (source.hasStarExport)
    breaches.push(`${source.path} has a star export: name what is exported, where it is written`);
  for (const { specifier } of source.imports) {
    if (specifier.startsWith(".") && !/\.[a-z]+$/.test(specifier)) {
      breaches.push(`${source.path} imports "${specifier}" without its ending`);
    }
  }
  return breaches;
}

export function syntaxBreaches(source: Source): string[] {
  const breaches: string[] = [];
  const declares = source.path.endsWith(".d.ts");
  source.visit({
    TSEnumDeclaration: ({ id }) => {
      breaches.push(`${source.path} has an enum, ${id.name}: a union of literals needs no code`);
    },
    TSModuleDeclaration: ({ declare }) => {
      if (!declare && !declares) breaches.push(`${source.path} has a namespace`);
    },
    TSParameterProperty: () => {
      breaches.push(`${source.path} has a parameter property`);
    },
    PropertyDefinition: ({ accessibility }) => {
      if (accessibility === "private") breaches.push(`${source.path} has a "private" property: it is #name`);
    },
    MethodDefinition: ({ accessibility, kind }) => {
      // A constructor has no # of its own.
      if (accessibility === "private" && kind !== "constructor")
        breaches.push(`${source.path} has a "private" method: it is #name`);
    },
  });
  return breaches;
}

/** Bundlers rename classes; a name that is written down stays. */
export function errorBreaches(source: Source): string[] {
  const breaches: string[] = [];
  source.visit({
    ClassDeclaration: ({ id, superClass, abstract, body }) => {
      if (id === null || superClass === null || abstract) return;
      const parent = dottedName(superClass);
      if (parent !== "Error" && parent !== "HiggsError") return;
      const named = body.body.some(
        (member) =>
          member.type === "PropertyDefinition" &&
          dottedName(member.key) === "name" &&
          member.value !== null &&
          textOf(unwrapped(member.value)) === id.name,
      );
      if (!named) breaches.push(`${source.path}: ${id.name} lacks \`override readonly name = "${id.name}"\``);
    },
  });
  return breaches;
}

/** A shell would read a name that somebody else chose as a command. */
export function shellBreaches(source: Source): string[] {
  const breaches: string[] = [];
  const say = (what: string) => breaches.push(`${source.path} uses a shell (${what}): commands are argv arrays`);
  source.visit({
    TaggedTemplateExpression: ({ tag }) => {
      const name = dottedName(tag);
      if (name === "Bun.$" || name === "$") say(name);
    },
    Property: ({ key, value }) => {
      if (dottedName(key) === "shell" && value.type === "Literal" && value.value === true) say("shell: true");
    },
    ImportDeclaration: ({ source: from, specifiers }) => {
      if (!/^(node:)?child_process$/.test(from.value)) return;
      for (const { local } of specifiers) if (/^exec(Sync)?$/.test(local.name)) say(local.name);
    },
  });
  return breaches;
}

/** Values reach SQL as parameters; drizzle's own sql`` makes them so, a string does not. */
export function sqlBreaches(source: Source): string[] {
  const breaches: string[] = [];
  const say = (what: string) =>
    breaches.push(`${source.path} hands ${what} a string that is put together: use parameters`);
  source.visit({
    CallExpression: ({ callee, arguments: given }) => {
      const name = dottedName(callee) ?? (callee.type === "MemberExpression" ? `….${methodOf(callee)}` : undefined);
      const method = name?.split(".").at(-1);
      const first = given[0];
      if (name === undefined || method === undefined || first === undefined) return;
      if (name === "sql.raw" && textOf(first) === undefined) say("sql.raw()");
      if (!/^(execute|executeMultiple|batch)$/.test(method)) return;
      if (statementsOf(first).some(isPutTogether)) say(`${method}()`);
    },
  });
  return breaches;
}

/** A test that doesn't run proves nothing, and one that is alone hides the others. */
export function testBreaches(source: Source): string[] {
  const breaches: string[] = [];
  const runners = /^(test|it|describe)(\.(each|concurrent|serial))*\.(skip|skipIf|todo|todoIf|only|if|failing)$/;
  source.visit({
    MemberExpression: (node) => {
      const name = calledName(node);
      if (name !== undefined && runners.test(name)) breaches.push(`${source.path} has ${name}()`);
      if (name === "mock.module") breaches.push(`${source.path} has ${name}(): fakes implement the interface`);
    },
    CallExpression: ({ callee }) => {
      const name = dottedName(callee);
      if (name !== undefined && /^x(test|it|describe)$/.test(name)) breaches.push(`${source.path} has ${name}()`);
    },
  });
  return breaches;
}

/** `test.each(…).skip` as "test.each.skip". */
function calledName(node: Node): string | undefined {
  if (node.type === "CallExpression") return calledName(node.callee);
  if (node.type !== "MemberExpression" || node.computed) return dottedName(node);
  const object = calledName(node.object);
  return object === undefined ? undefined : `${object}.${node.property.name}`;
}

function methodOf(node: Node): string {
  return node.type === "MemberExpression" && !node.computed ? node.property.name : "";
}

/** `"a" as const` is "a". */
function unwrapped(node: Node): Node {
  return node.type === "TSAsExpression" || node.type === "TSSatisfiesExpression" ? unwrapped(node.expression) : node;
}

/** The SQL texts in an argument: itself, `{ sql: … }`, or an array of these. */
function statementsOf(node: Node): Node[] {
  if (node.type === "ArrayExpression")
    return node.elements.flatMap((element) => (element === null ? [] : statementsOf(element)));
  if (node.type !== "ObjectExpression") return [node];
  return node.properties.flatMap((property) =>
    property.type === "Property" && dottedName(property.key) === "sql" ? [property.value] : [],
  );
}

/** PRAGMAs take no parameters, so their values are put in as numbers or names of the code's own. */
function isPutTogether(node: Node): boolean {
  if (node.type === "TemplateLiteral" && node.quasis[0]?.value.raw.startsWith("PRAGMA ")) return false;
  return (node.type === "TemplateLiteral" && node.expressions.length > 0) || node.type === "BinaryExpression";
}
