// Reading an invite as a person gives it: as an argument, from file:PATH, or from standard input.
import { readFile } from "node:fs/promises";
import { errorText } from "../base/errors.ts";
import { type Invite, InviteError, parseInvite } from "../proto/invite.ts";
import { UsageError } from "../roles/config.ts";

const MOST_BYTES = 16_384;

/** Throws InviteError or UsageError; neither shows the invite. */
export async function readInvite(text: string): Promise<Invite> {
  if (text === "-") return parseInvite((await Bun.stdin.text()).slice(0, MOST_BYTES));
  if (!text.startsWith("file:")) return parseInvite(text);
  const path = text.slice("file:".length);
  try {
    return parseInvite((await readFile(path, "utf8")).slice(0, MOST_BYTES));
  } catch (thrown) {
    if (thrown instanceof InviteError) throw thrown;
    throw new UsageError(`Cannot read the invite from ${path}: ${errorText(thrown)}.`, {
      code: "usage",
      cause: thrown,
    });
  }
}
