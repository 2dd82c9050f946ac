// An exit's policy in words, from what its node signed.
import { z } from "zod";

export const policyShape = z
  .object({
    mail: z.boolean(),
    ports: z.array(z.object({ protocol: z.string(), first: z.number(), last: z.number() })).nullable(),
    closed: z.array(z.string()),
    opened: z.array(z.object({ prefix: z.string(), forAll: z.boolean() })),
    filtersNames: z.boolean(),
    logDays: z.number(),
    isWhole: z.boolean(),
  })
  .loose();
type Policy = z.infer<typeof policyShape>;

/** One sentence each: what goes out, what is opened, what is kept. */
export function policyLines(policy: Policy): readonly string[] {
  const lines = [goesOut(policy)];
  for (const { prefix, forAll } of policy.opened)
    lines.push(`opens ${prefix} to ${forAll ? "every client" : "some clients"}`);
  if (policy.filtersNames) lines.push("hides names that its owner blocks");
  lines.push(
    policy.logDays === 0
      ? "keeps no record of connections"
      : `keeps time, client, protocol and destination of connections for ${policy.logDays} ${policy.logDays === 1 ? "day" : "days"}`,
  );
  if (!policy.isWhole) lines.push("says more than this version of higgs understands");
  return lines;
}

function goesOut({ mail, ports, closed }: Policy): string {
  const what = ports === null ? "everything goes out" : `only ports ${ports.map(portText).join(", ")} go out`;
  const but = [...(mail || ports !== null ? [] : ["mail (port 25)"]), ...closed];
  return but.length === 0 ? what : `${what}, but ${but.join(", ")}`;
}

function portText({ protocol, first, last }: { protocol: string; first: number; last: number }): string {
  return `${protocol}/${first === last ? first : `${first}-${last}`}`;
}
