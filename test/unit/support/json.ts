// JSON bodies with one fault each, for the schemas that read what a network says.
import type { z } from "zod";

export type Json = null | boolean | number | string | readonly Json[] | { readonly [name: string]: Json };
type Path = readonly (string | number)[];

/** Every place in a body: the root, each field, each entry of a list. */
export function placesIn(body: Json, path: Path = []): Path[] {
  if (typeof body !== "object" || body === null) return [path];
  const entries: [string | number, Json][] = Array.isArray(body) ? [...body.entries()] : Object.entries(body);
  return [path, ...entries.flatMap(([key, value]) => placesIn(value, [...path, key]))];
}

export function at(body: Json, path: Path): Json | undefined {
  let here: Json | undefined = body;
  for (const key of path) here = (here as { readonly [name: string | number]: Json } | undefined)?.[key];
  return here;
}

/** A copy with another value in one place; undefined takes the place out. */
export function withValue(body: Json, path: Path, value: Json | undefined): Json {
  const [key, ...rest] = path;
  if (key === undefined) return value ?? null;
  const copy = structuredClone(body) as Record<string | number, Json>;
  const inner = rest.length === 0 ? value : withValue(copy[key] ?? null, rest, value);
  if (inner === undefined) delete copy[key];
  else copy[key] = inner;
  return copy;
}

/** Values of every kind of JSON. */
const ONE_OF_EACH: readonly Json[] = [null, true, 1.5, -1, "\u0000", [[]], { a: 1 }, "x".repeat(20_000)];

/** The places that take a value of another kind than the sample's, as `path: value`; a sound schema has none. */
export function wrongKindsAccepted(schema: z.ZodType, body: Json, nullable: readonly string[] = []): string[] {
  const accepted: string[] = [];
  for (const path of placesIn(body)) {
    for (const value of ONE_OF_EACH) {
      if (value === null && nullable.includes(path.join("."))) continue;
      if (kindOf(value) === kindOf(at(body, path) ?? null) && kindOf(value) !== "string") continue;
      if (schema.safeParse(withValue(body, path, value)).success) {
        accepted.push(`${path.join(".")}: ${JSON.stringify(value).slice(0, 30)}`);
      }
    }
  }
  return accepted;
}

/** The fields without which the body is accepted all the same. */
export function optionalFields(schema: z.ZodType, body: Json): string[] {
  return placesIn(body)
    .filter((path) => typeof path.at(-1) === "string")
    .filter((path) => schema.safeParse(withValue(body, path, undefined)).success)
    .map((path) => path.join("."));
}

function kindOf(value: Json): string {
  if (value === null) return "null";
  return Array.isArray(value) ? "list" : typeof value;
}
