// Names of network interfaces: checked wherever one enters a path, a ruleset or a command.

/** What the kernel takes (IFNAMSIZ is 16 with the closing zero), less every character that means something to a tool. */
const NAME = /^[a-zA-Z0-9_.-]{1,15}$/;

/** False also for "." and "..", which would leave the folder that a name is looked up in, and for what a tool takes for a flag. */
export function isInterfaceName(text: string): boolean {
  return NAME.test(text) && text !== "." && text !== ".." && !text.startsWith("-");
}
