// Fixed keys of the RFCs, so that golden bytes can be checked by hand, and a stranger's for comparison.
import type { IdentityKey, IdentitySecret, WireGuardKey, WireGuardSecret } from "../../../src/proto/keys.ts";

export function hex(text: string): Uint8Array {
  return Uint8Array.fromHex(text.replace(/\s+/g, ""));
}

/** RFC 8032 section 7.1, test 1. */
export const NETWORK_SECRET = hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60") as IdentitySecret;
export const NETWORK_HEX = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
export const NETWORK_KEY = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" as IdentityKey;

/** RFC 8032 section 7.1, test 2. */
export const MACHINE_SECRET = hex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb") as IdentitySecret;
export const MACHINE_HEX = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
export const MACHINE_KEY = "PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw" as IdentityKey;

/** RFC 8032 section 7.1, test 3. */
export const STRANGER_SECRET = hex(
  "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
) as IdentitySecret;
export const STRANGER_KEY = "_FHNjmIYoaONpH7QAjDwWAgW7RO6MwOsXeuRFUiQgCU" as IdentityKey;

/** RFC 7748 section 6.1, Alice; the secret with the bits set and cleared that `wg genkey` sets and clears. */
export const WIREGUARD_SECRET = "cAdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LGo=" as WireGuardSecret;
export const WIREGUARD_HEX = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";
export const WIREGUARD_KEY = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=" as WireGuardKey;
