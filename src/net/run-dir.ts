// A role's run folder, and what of it the group higgs may use: the folder and the everyday socket, where the machine has that group.
import { readFileSync } from "node:fs";
import { lchown, lstat, mkdir } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { systemExec } from "./exec.ts";
import { protectFolder } from "./windows-folder.ts";

const GROUP = "higgs";

/** From the text of /etc/group (group(5)); null where there is no such group. */
export function groupIdIn(text: string, name: string): number | null {
  for (const line of text.split("\n")) {
    const [group, , id] = line.split(":");
    if (group === name && id !== undefined && /^\d{1,10}$/.test(id)) return Number(id);
  }
  return null;
}

/** Its members read status and use the everyday verbs without being root. */
export function higgsGroupId(): number | null {
  try {
    return groupIdIn(readFileSync("/etc/group", "utf8"), GROUP);
  } catch {
    return null; // a container without the file: then root alone
  }
}

/** Makes the folder with mode 0750. What was made here, and a folder higgs/<role>, becomes the group's; another that a person named stays as it is. */
export async function makeRunDir(runDir: string, groupId: number | null = higgsGroupId()): Promise<void> {
  const made = await mkdir(runDir, { recursive: true, mode: 0o750 });
  // No group there: an elevated prompt alone reaches the sockets.
  if (process.platform === "win32") await protectFolder(systemExec(), runDir);
  if (groupId === null) return;
  const parent = dirname(runDir);
  const isUsual = basename(parent) === GROUP;
  if (isUsual) await giveToGroup(parent, groupId);
  if (isUsual || made !== undefined) await giveToGroup(runDir, groupId);
}

/** The owner stays: root may look into the folder of a service. A process that may not give it away keeps it to itself. */
export async function giveToGroup(path: string, groupId: number): Promise<void> {
  const { uid } = await lstat(path);
  await lchown(path, uid, groupId).catch(() => undefined); // no root, and no member: as without the group
}
