// What a setting may be, as it comes from a flag, the environment or a file: text, numbers, lists and switches.
import { z } from "zod";
import { parseCidr, parseHostPort, parseIp } from "../base/ip.ts";
import { DEFAULT_PORT } from "../proto/invite.ts";
import { parseQuota } from "../server/relay/quota.ts";

export const port = z.coerce.number().int().min(1).max(65_535);
export const hostPort = z
  .string()
  .refine((text) => parseHostPort(text, DEFAULT_PORT) !== null, { error: "is no HOST or HOST:PORT" });
export const cidr = z
  .string()
  .refine((text) => parseCidr(text) !== null, { error: "is no prefix such as 10.77.0.0/16" });
export const list = z.union([
  z.array(z.string()),
  z.string().transform((text) => text.split(",").filter((part) => part !== "")),
]);
/** Each of them may be given by itself or with others, between commas; `none` is none. */
const items = z
  .pipe(list, z.array(z.string()))
  .transform((all) => all.flatMap((one) => one.split(",")).map((one) => one.trim().toLowerCase()))
  .transform((all) => all.filter((one) => one !== "" && one !== "none"));
export const each = (what: (item: string) => string | null) =>
  items.superRefine((all, context) => {
    for (const item of all) {
      const wrong = what(item);
      if (wrong !== null) context.addIssue(`"${item}" ${wrong}`);
    }
  });
export const toggle = z.union([
  z.boolean(),
  z.enum(["1", "true", "yes", "0", "false", "no"]).transform((t) => t === "1" || t === "true" || t === "yes"),
]);
export const text = z.string().min(1);
export const domain = z.string().transform((name, context) => {
  const known = parseHostPort(name.replace(/\.$/, ""), DEFAULT_PORT)?.host;
  if (known !== undefined && parseIp(known) === null) return known;
  context.addIssue(`"${name}" is no domain`);
  return z.NEVER;
});
export const pathList = z
  .string()
  .transform((kinds) => kinds.split(",").map((kind) => kind.trim()))
  .pipe(z.array(z.enum(["direct", "udp-relay", "wss"])))
  .refine((kinds) => kinds.includes("wss"), { error: "must have wss, by which every session starts" });
export const portRange = z
  .string()
  .regex(/^\d{1,5}-\d{1,5}$/, { error: "is no range such as 40000-40999" })
  .transform((range) => range.split("-").map(Number))
  .transform(([first = 0, last = 0]) => ({ first, last }))
  .refine(({ first, last }) => first >= 1 && first <= last && last <= 65_535, { error: "is no range of ports" });
export const quota = z
  .string()
  .refine((limit) => limit === "none" || parseQuota(limit) !== null, {
    error: "is no quota such as 50GB/month or 2GB/day (100 kB or more), nor none",
  })
  .transform((limit) => parseQuota(limit))
  .nullable();
export const optional = <T extends z.ZodType>(schema: T) => schema.nullable();
