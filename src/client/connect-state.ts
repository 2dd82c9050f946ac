// The states of a client's connection, and what each event makes of them.
//
//   disconnected ──up──► connecting ──tunnelled──► connected
//        ▲                   │  ▲                     │
//        │                  down └────exit changed────┤
//        └──undone── disconnecting ◄──────down────────┘
//
// `connected` means by the exit that is chosen now. Routes and DNS become the tunnel's when it is reached for the first time and
// stay so until `down`: neither a lost path nor another choice lets traffic past the tunnel.

export type ConnectState =
  | { readonly kind: "disconnected" }
  | { readonly kind: "connecting"; readonly sinceMs: number }
  | { readonly kind: "connected"; readonly sinceMs: number; readonly exitId: string | null }
  | { readonly kind: "disconnecting" };

export type ConnectEvent =
  | { readonly kind: "up"; readonly atMs: number }
  /** The wanted exit answered through the tunnel, and routes and DNS are in place. `exitId` is null for no exit. */
  | { readonly kind: "tunnelled"; readonly atMs: number; readonly exitId: string | null }
  /** The choice now picks another exit than the one of `connected`, or waits for one. */
  | { readonly kind: "exit-changed"; readonly atMs: number }
  | { readonly kind: "down" }
  | { readonly kind: "undone" };

/** An event that means nothing in a state leaves it as it is. */
export function step(state: ConnectState, event: ConnectEvent): ConnectState {
  switch (event.kind) {
    case "up":
      return state.kind === "disconnected" ? { kind: "connecting", sinceMs: event.atMs } : state;
    case "tunnelled":
      if (state.kind === "connecting") return { kind: "connected", sinceMs: event.atMs, exitId: event.exitId };
      if (state.kind === "connected" && state.exitId !== event.exitId) {
        return { kind: "connected", sinceMs: event.atMs, exitId: event.exitId };
      }
      return state;
    case "exit-changed":
      return state.kind === "connected" ? { kind: "connecting", sinceMs: event.atMs } : state;
    case "down":
      return state.kind === "disconnected" ? state : { kind: "disconnecting" };
    case "undone":
      return state.kind === "disconnecting" ? { kind: "disconnected" } : state;
  }
}
