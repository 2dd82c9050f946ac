// The two roles that a machine can have, and their code on the wire.

/** A node offers (an exit, its LAN, services); a client uses. Neither limits the shape of the network. */
export type Role = "node" | "client";

export function roleCode(role: Role): number {
  return role === "node" ? 1 : 2;
}

export function roleFromCode(code: number): Role | null {
  if (code === 1) return "node";
  return code === 2 ? "client" : null;
}
