// Writes the wireguard-go that this executable carries to where a service, which may not write there, finds it.
import { carried } from "higgs:carried-wireguard-go";
import { LIBEXEC_DIR, unpackedCarried } from "./carried.ts";

/** A sentence for each thing that was done; none where the executable carries none. Throws CarriedRefused. */
export async function prepareCarried(): Promise<readonly string[]> {
  return carried === null ? [] : [`WireGuard for this machine: ${await unpackedCarried(carried, LIBEXEC_DIR)}`];
}
