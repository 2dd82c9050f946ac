// Who may connect to whom, and therefore who sees whom.
import type { Role } from "../proto/role.ts";

export interface PolicySubject {
  readonly id: string;
  readonly role: Role;
  readonly tags: readonly string[];
}

export interface Policy {
  /** The same in both directions. */
  mayConnect(a: PolicySubject, b: PolicySubject): boolean;
}

/** A node with a client, whoever asks; neither two clients nor two nodes. */
export const defaultPolicy: Policy = {
  mayConnect: (a, b) => a.id !== b.id && a.role !== b.role,
};
