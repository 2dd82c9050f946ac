// An interface's name on its way into the text of a rule.
import { isInterfaceName } from "../interface-name.ts";
import { FirewallNameRefused } from "./errors.ts";

/** The name itself. Throws FirewallNameRefused for what the kernel would not take as an interface, or a tool for more than one. */
export function checkedInterface(name: string): string {
  if (isInterfaceName(name)) return name;
  throw new FirewallNameRefused(`Cannot write firewall rules for "${name}": it is no interface name.`, {
    code: "interface-name-invalid",
  });
}
