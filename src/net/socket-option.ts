// Options that discovery, relay and port mapping give their UDP sockets, by name and value.
import type { Family } from "../base/ip.ts";
import { type SocketOption, socketOptions } from "./udp-options.ts";

export interface OptionValue {
  readonly option: SocketOption;
  readonly value: number;
}

/** IP_PMTUDISC_PROBE (linux/in.h): never cut into fragments, whatever the kernel believes the path to take. */
const PROBE = 3;

/** Checks of full size must fail on a path that is too small. IP_MTU_DISCOVER (linux/in.h), IPV6_MTU_DISCOVER (linux/in6.h). */
export const NEVER_FRAGMENT: Readonly<Record<Family, OptionValue>> = {
  4: { option: { level: 0, name: 10 }, value: PROBE },
  6: { option: { level: 41, name: 23 }, value: PROBE },
};

/** SO_MARK (asm-generic/socket.h): rules of routing see it before a source address is chosen. Needs CAP_NET_ADMIN. */
export function markOption(mark: number): OptionValue {
  return { option: { level: 1, name: 36 }, value: mark };
}

/** True when the socket has the option now. */
export async function setSocketOption(fd: number, { option, value }: OptionValue): Promise<boolean> {
  return (await socketOptions())?.(fd, option, value) ?? false;
}
