// The write-ahead journal of what a role changed on this machine: a closed set of entries that root can safely act on.

/** The sysctls that higgs may write; an entry names one of them, never a path. */
export type SysctlKey =
  | "net.ipv4.ip_forward"
  | "net.ipv6.conf.all.forwarding"
  | "net.ipv4.conf.all.src_valid_mark"
  | "net.ipv4.conf.all.arp_ignore"
  | "net.ipv4.conf.all.accept_redirects"
  /** The interface's name is validated wherever an entry is read. */
  | `net.ipv6.conf.${string}.accept_ra`;

/** What /etc/resolv.conf was before: its bytes are in the role's state folder under a name fixed by the program. */
export type ResolvConfOriginal =
  | { readonly kind: "file"; readonly mode: number; readonly sha256: string }
  | { readonly kind: "symlink"; readonly target: string }
  | { readonly kind: "absent" };

/** What one profile of Windows Firewall was before; what it was made is a constant of the program. */
export interface WindowsProfileEntry {
  readonly kind: "windows-profile";
  readonly profile: "Domain" | "Private" | "Public";
  readonly before: {
    readonly enabled: "True" | "False" | "NotConfigured";
    readonly outbound: "Allow" | "Block" | "NotConfigured";
  };
}

export type UndoEntry = LinuxUndoEntry | MacUndoEntry | WindowsUndoEntry;

export type LinuxUndoEntry =
  | { readonly kind: "wireguard-device" }
  | { readonly kind: "nft-table" }
  | { readonly kind: "egress-table" }
  | { readonly kind: "iptables-chains" }
  | { readonly kind: "demux-table" }
  | { readonly kind: "redirect-table" }
  | { readonly kind: "log-table" }
  | { readonly kind: "ip-rules" }
  | { readonly kind: "ip-routes" }
  | { readonly kind: "sysctl"; readonly key: SysctlKey; readonly before: string; readonly ours: string }
  | { readonly kind: "resolv-conf"; readonly original: ResolvConfOriginal; readonly oursSha256: string }
  | { readonly kind: "resolvconf-record" }
  | { readonly kind: "resolved-link" };

export type MacUndoEntry =
  | { readonly kind: "wireguard-device" }
  | { readonly kind: "pf-anchor" }
  /** The reference by which pf is on for us; null from before it is asked for until its token is known. */
  | { readonly kind: "pf-enable"; readonly token: string | null }
  | { readonly kind: "marked-routes" }
  | { readonly kind: "scutil-dns" };

export type WindowsUndoEntry =
  | { readonly kind: "windows-tunnel" }
  | { readonly kind: "windows-routes" }
  | { readonly kind: "windows-dns" }
  | { readonly kind: "windows-firewall" }
  | WindowsProfileEntry;

/** What an entry is about: a second one about the same takes its place. */
export function entryKey(entry: UndoEntry): string {
  if (entry.kind === "windows-profile") return `${entry.kind} ${entry.profile}`;
  return entry.kind === "sysctl" ? entry.key : entry.kind;
}

/** Every `add` is on disk (file and folder synced) before it resolves; then the change may be made. */
export interface Journal {
  entries(): readonly UndoEntry[];
  /** An entry about the same as one that is there keeps what that one says of the time before us. */
  add(entry: UndoEntry): Promise<void>;
  /** After the change was undone. */
  remove(entry: UndoEntry): Promise<void>;
}
