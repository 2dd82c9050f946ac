// Which exit a client uses: the one that was named, any that is ready, or none.
import { isMachineName, type MachineName } from "../base/hostname.ts";
import { fromBase64 } from "../base/bytes.ts";
import { HiggsError } from "../base/errors.ts";
import type { KnownPeer } from "../peer/netmap.ts";
import { decodeExitTerms, type ExitTerms } from "../proto/exit-terms.ts";
import { decodeRecord, EXTENSION } from "../proto/record.ts";

export type ExitChoice =
  | { readonly kind: "auto" }
  | { readonly kind: "none" }
  | { readonly kind: "named"; readonly name: MachineName };

export class ExitError extends HiggsError {
  override readonly name = "ExitError";
}

/** Throws ExitError `bad-exit`. */
export function parseExitChoice(text: string): ExitChoice {
  if (text === "auto" || text === "none") return { kind: text };
  if (isMachineName(text)) return { kind: "named", name: text };
  throw new ExitError(`Cannot use the exit "${text}": it is no name of a machine.`, {
    code: "bad-exit",
    remedy: "higgs client exit list",
  });
}

export function exitChoiceText(choice: ExitChoice): string {
  return choice.kind === "named" ? choice.name : choice.kind;
}

export type ExitPick =
  | { readonly kind: "none" }
  | { readonly kind: "peer"; readonly peer: KnownPeer }
  /** There is no exit to use now; `text` says why, for people. */
  | { readonly kind: "waiting"; readonly text: string; readonly remedy: string };

/** A record without a default route offers no exit, whatever presence says. */
export function offersExit(peer: KnownPeer): boolean {
  return peer.machine.routes.some((route) => route === "0.0.0.0/0");
}

/** From the record that the node signed and this machine verified: no server can say otherwise. Null where it says none. */
export function termsOf(peer: Pick<KnownPeer, "machine">): ExitTerms | null {
  const { extensions } = decodeRecord(fromBase64(peer.machine.bytes) ?? new Uint8Array(0));
  const terms = extensions.find((extension) => extension.type === EXTENSION.exitTerms);
  return terms === undefined ? null : decodeExitTerms(terms.value);
}

function usable(peer: KnownPeer): boolean {
  return offersExit(peer) && peer.online && peer.exit?.ready === true;
}

/**
 * Keeps the current exit for as long as it is usable, so that a second one coming up moves nobody;
 * with `auto`, moves on to another that is. `current` is the id in use.
 */
export function pickExit(peers: readonly KnownPeer[], choice: ExitChoice, current: string | null): ExitPick {
  if (choice.kind === "none") return { kind: "none" };
  if (choice.kind === "named") return pickNamed(peers, choice.name, current);
  const ready = peers.filter(usable).toSorted((a, b) => a.name.localeCompare(b.name));
  const kept = ready.find((peer) => peer.id === current) ?? ready[0] ?? peers.find((peer) => peer.id === current);
  if (kept !== undefined) return { kind: "peer", peer: kept };
  const offered = peers.filter((peer) => peer.exit !== null);
  if (offered.length === 0) {
    return {
      kind: "waiting",
      text: "No machine of this network offers an exit.",
      remedy: "On the home PC: higgs node join …, with an invite from: higgs server invite node",
    };
  }
  return { kind: "waiting", text: offered.map(whyNot).join(" "), remedy: "higgs client exit list" };
}

function pickNamed(peers: readonly KnownPeer[], name: MachineName, current: string | null): ExitPick {
  const peer = peers.find((candidate) => candidate.name === name);
  if (peer === undefined) {
    return {
      kind: "waiting",
      text: `No machine named "${name}" is known here.`,
      remedy: "higgs client exit list",
    };
  }
  if (!offersExit(peer)) {
    return { kind: "waiting", text: `"${name}" does not offer an exit.`, remedy: "higgs client exit list" };
  }
  if (usable(peer) || peer.id === current) return { kind: "peer", peer };
  return { kind: "waiting", text: whyNot(peer), remedy: `Look at that machine: higgs node status` };
}

function whyNot(peer: KnownPeer): string {
  if (!peer.online) return `"${peer.name}" is offline.`;
  const missing = peer.exit?.missing.join(" ") ?? "";
  return `"${peer.name}" cannot be an exit now${missing === "" ? "." : `: ${missing}`}`;
}
