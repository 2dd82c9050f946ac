// The fixed names by which higgs marks what is its own on macOS; only a client runs there.

/**
 * Below the anchor that macOS' own rules call: `anchor "com.apple/*"` in /etc/pf.conf. Those below it are gone through in the order
 * of the alphabet (pf.conf(5), ANCHORS), so that ours decides before Apple's.
 */
export const PF_ANCHOR = "com.apple/000.higgs_client";
/** The call of it among the main rules, as `pfctl -s rules` prints it. */
export const PF_ANCHOR_POINT = 'anchor "com.apple/*" all';

/** Any name of a service will do that nobody else has; configd gathers the DNS of all of them (scutil(8), System Configuration). */
export const DNS_KEY = "State:/Network/Service/higgs-client/DNS";

/**
 * macOS names tunnels itself: utun and a number. wireguard-go writes which into the file that WG_TUN_NAME_FILE names
 * (its tun/tun_darwin.go), and wg-quick(8) keeps it at such a place too.
 */
export const TUNNEL_NAME_PATH = "/var/run/wireguard/higgs0.name";

/** A route of ours is told by these two flags, which mean nothing to the kernel (route(8): RTF_PROTO1, RTF_PROTO2). */
export const ROUTE_MARKS = ["-proto1", "-proto2"] as const;
/** The same, as `netstat -rn` shows them among others (netstat(1)). */
export const ROUTE_FLAGS = ["1", "2"] as const;
