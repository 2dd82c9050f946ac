// A change of path as one sentence for the log: pure.
import type { PathInfo } from "./path-info.ts";

export interface PathMove {
  readonly peer: string;
  /** Null is the server's WebSocket. */
  readonly to: PathInfo | null;
  readonly from: PathInfo | null;
  readonly reason: string;
}

export function moveSentence({ peer, to, from, reason }: PathMove): string {
  return `Packets to ${peer} go ${wayOf(to)}, no longer ${wayOf(from)}: ${reason}.`;
}

function wayOf(info: PathInfo | null): string {
  switch (info?.target.kind) {
    case "direct":
      return `directly by ${info.target.key}`;
    case "udp-relay":
      return `through the server's UDP relay by ${info.target.key}`;
    case undefined:
      return "through the server's WebSocket";
  }
}
