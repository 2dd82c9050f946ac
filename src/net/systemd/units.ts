// The systemd units that higgs installs, as text: each role under its own user with the least privileges that it can do with.
import { HiggsError } from "../../base/errors.ts";
import { HELPER_SOCKET_PATH, HELPER_STATE_DIR } from "../dns/resolv-conf-helper.ts";

export type ServiceRole = "server" | "node" | "client";

export interface ServiceCommand {
  /** Where only root may write: the service manager starts it. */
  readonly executablePath: string;
  /** After `higgs ROLE run`. */
  readonly flags: readonly string[];
}

export class ServiceRefused extends HiggsError {
  override readonly name = "ServiceRefused";
}

export const SERVICE_USER = "higgs";

/** Where the administrator's own units and rules lie: the executable came without a package. */
export const UNIT_DIR = "/etc/systemd/system";
export const POLKIT_RULES_PATH = "/etc/polkit-1/rules.d/50-higgs.rules";

export const HELPER_SOCKET_UNIT = "higgs-resolv-conf.socket";
export const HELPER_SERVICE_UNIT = "higgs-resolv-conf@.service";
export const HELPER_BOOT_UNIT = "higgs-resolv-conf-boot.service";
export const LOCK_UNIT = "higgs-lock.service";

/** What a role's service may and has, however it is started. */
export interface ServiceLimits {
  readonly user: string;
  /** Ambient, and the most that it could ever get. */
  readonly capabilities: readonly string[];
  readonly umask: string;
  /** Below /var/lib and /run: made before it starts, and its user's own. */
  readonly stateDir: string;
  readonly stateDirMode: string;
  readonly runDirs: readonly string[];
  readonly runDirMode: string;
}

export function serviceLimits(role: ServiceRole): ServiceLimits {
  const isMachine = role !== "server";
  return {
    user: SERVICE_USER,
    capabilities: isMachine ? ["CAP_NET_ADMIN"] : ["CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE"],
    umask: "0077",
    stateDir: `higgs/${role}`,
    stateDirMode: "0700",
    runDirs: [`higgs/${role}`, ...(isMachine ? ["wireguard"] : [])],
    runDirMode: "0750",
  };
}

/** chown is a privileged call, and a file of somebody else's must be put back as theirs. */
export const HELPER_CAPABILITIES: readonly string[] = ["CAP_CHOWN", "CAP_FOWNER"];

export function unitName(role: ServiceRole): string {
  return `higgs-${role}.service`;
}

const ABOUT: Readonly<Record<ServiceRole, string>> = {
  server: "higgs server: coordinates, relays and stores",
  node: "higgs node: an exit to the internet",
  client: "higgs client: goes out through an exit",
};

/*
 * Why some of it is as it is:
 *   KillMode=process          systemd ends the process, which ends its tunnel; after a crash the tunnel stays for the next start
 *   RestartKillSignal         a restart is a crash that somebody wanted: nothing is undone, and the next start adopts what is there
 *   Restart=on-failure        `higgs ROLE down` and `leave` end with 0 and mean it
 *   ExecStopPost              undoes what a process that ended in order has left, and nothing after a crash
 *   RuntimeDirectoryPreserve  /run/wireguard is another role's too; a boot takes it away
 *   MemoryDenyWriteExecute    not possible: JavaScript is compiled while it runs
 *   ProtectKernelTunables     not possible: forwarding and others are kernel settings of the network
 */
export function roleUnit(role: ServiceRole, command: ServiceCommand): string {
  const { executablePath } = command;
  const isMachine = role !== "server";
  const run = [executablePath, role, "run", "--log-format", "text", ...command.flags];
  const clean = [executablePath, "state", "clean", "--role", role, "--after-stop"];
  const limits = serviceLimits(role);
  const capabilities = limits.capabilities.join(" ");
  const lines = [
    "[Unit]",
    `Description=${ABOUT[role]}`,
    "After=network.target nss-lookup.target nftables.service dbus.service systemd-resolved.service",
    "StartLimitIntervalSec=0",
    "",
    "[Service]",
    "Type=notify",
    `User=${limits.user}`,
    `Group=${limits.user}`,
    `ExecStart=${commandLine(run)}`,
    `ExecStopPost=-${commandLine(clean)}`,
    "Restart=on-failure",
    "RestartSec=1",
    // Not enrolled, a wrong setting, a missing tool: nothing that another start would mend.
    "RestartPreventExitStatus=2 4 9",
    "RestartKillSignal=SIGKILL",
    "WatchdogSec=30",
    "TimeoutStartSec=60",
    "TimeoutStopSec=30",
    "KillMode=process",
    `StateDirectory=${limits.stateDir}`,
    `StateDirectoryMode=${limits.stateDirMode}`,
    `RuntimeDirectory=${limits.runDirs.join(" ")}`,
    `RuntimeDirectoryMode=${limits.runDirMode}`,
    "RuntimeDirectoryPreserve=yes",
    "ConfigurationDirectory=higgs",
    `UMask=${limits.umask}`,
    `AmbientCapabilities=${capabilities}`,
    `CapabilityBoundingSet=${capabilities}`,
    "NoNewPrivileges=yes",
    "SecureBits=noroot-locked",
    ...(isMachine ? ["DevicePolicy=closed", "DeviceAllow=/dev/net/tun rw"] : ["PrivateDevices=yes"]),
    ...(isMachine ? [] : ["IPAddressDeny=169.254.169.254 fd00:ec2::254"]),
    "MemoryDenyWriteExecute=no",
    ...SANDBOX,
    "ProtectKernelTunables=no",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    "LimitNOFILE=65536",
    "LimitCORE=0",
    "TasksMax=512",
    `MemoryMax=${isMachine ? "512M" : "2G"}`,
    "",
    "[Install]",
    "WantedBy=multi-user.target",
  ];
  return text(lines);
}

/**
 * At the boot, before any network: where the kill switch is on, this machine is closed until the client connects. After whoever else
 * loads firewall rules then, as their first word is mostly to flush all that there is.
 */
export function lockUnit(executablePath: string): string {
  return text([
    "[Unit]",
    "Description=higgs: keeps this machine closed from the boot on where the kill switch is on",
    "DefaultDependencies=no",
    "After=local-fs.target nftables.service netfilter-persistent.service ufw.service",
    "Before=network-pre.target shutdown.target",
    "Wants=network-pre.target",
    "Conflicts=shutdown.target",
    "",
    "[Service]",
    "Type=oneshot",
    "RemainAfterExit=yes",
    `User=${SERVICE_USER}`,
    `Group=${SERVICE_USER}`,
    `ExecStart=${commandLine([executablePath, "client", "lockdown", "load"])}`,
    "TimeoutStartSec=20",
    "StateDirectory=higgs/client",
    "StateDirectoryMode=0700",
    "UMask=0077",
    "AmbientCapabilities=CAP_NET_ADMIN",
    "CapabilityBoundingSet=CAP_NET_ADMIN",
    "NoNewPrivileges=yes",
    "SecureBits=noroot-locked",
    "PrivateDevices=yes",
    "IPAddressDeny=any",
    "MemoryDenyWriteExecute=no",
    ...SANDBOX,
    "ProtectKernelTunables=no",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    "LimitCORE=0",
    "TasksMax=64",
    "",
    "[Install]",
    "WantedBy=sysinit.target",
  ]);
}

/** What is the same for everything that higgs starts. */
const SANDBOX: readonly string[] = [
  "ProtectSystem=strict",
  "ProtectHome=yes",
  "PrivateTmp=yes",
  "PrivateMounts=yes",
  "PrivateIPC=yes",
  "ProtectProc=invisible",
  "ProtectClock=yes",
  "ProtectHostname=yes",
  "ProtectKernelLogs=yes",
  "ProtectKernelModules=yes",
  "ProtectControlGroups=yes",
  "RestrictNamespaces=yes",
  "RestrictRealtime=yes",
  "RestrictSUIDSGID=yes",
  "LockPersonality=yes",
  "RemoveIPC=yes",
  "KeyringMode=private",
  "SystemCallArchitectures=native",
  "SystemCallFilter=@system-service",
  "SystemCallFilter=~@privileged @resources @mount @swap @reboot @module @raw-io @obsolete @cpu-emulation @debug",
  "SystemCallErrorNumber=EPERM",
];

/** The client may not write to /etc; who may is started for each request, and does nothing else. */
export function helperSocketUnit(): string {
  return text([
    "[Unit]",
    "Description=higgs: requests to set /etc/resolv.conf",
    "",
    "[Socket]",
    `ListenStream=${HELPER_SOCKET_PATH}`,
    `SocketUser=${SERVICE_USER}`,
    `SocketGroup=${SERVICE_USER}`,
    "SocketMode=0600",
    "Accept=yes",
    "MaxConnections=4",
    "RemoveOnStop=yes",
    "",
    "[Install]",
    "WantedBy=sockets.target",
  ]);
}

/** resolvconf's records are everybody's to read, whatever umask this one would have. */
export function helperServiceUnit(executablePath: string): string {
  return text([
    "[Unit]",
    "Description=higgs: sets /etc/resolv.conf, or puts it back",
    "CollectMode=inactive-or-failed",
    "",
    "[Service]",
    `ExecStart=${commandLine([executablePath, "resolv-conf-helper"])}`,
    "StandardInput=socket",
    "StandardOutput=socket",
    "StandardError=journal",
    "TimeoutStartSec=10",
    "RuntimeMaxSec=10",
    "ReadWritePaths=/etc -/run/resolvconf",
    ...HELPER,
  ]);
}

/**
 * What a client that lost its power left in /etc goes at the boot, before anybody else looks at it: then who manages the file finds
 * what is theirs, also where the client does not start.
 */
export function helperBootUnit(executablePath: string): string {
  return text([
    "[Unit]",
    "Description=higgs: puts /etc/resolv.conf back after a power cut",
    `ConditionPathExists=${HELPER_STATE_DIR}/journal.json`,
    "DefaultDependencies=no",
    "After=local-fs.target systemd-tmpfiles-setup.service",
    "Before=network-pre.target shutdown.target",
    "Wants=network-pre.target",
    "Conflicts=shutdown.target",
    "",
    "[Service]",
    "Type=oneshot",
    `ExecStart=${commandLine([executablePath, "resolv-conf-helper"])}`,
    "StandardInput=data",
    'StandardInputText={"reset":true}',
    "TimeoutStartSec=20",
    "ReadWritePaths=/etc /run",
    ...HELPER,
    "",
    "[Install]",
    "WantedBy=sysinit.target",
  ]);
}

const HELPER: readonly string[] = [
  "StateDirectory=higgs/resolv-conf",
  "StateDirectoryMode=0700",
  "UMask=0022",
  `CapabilityBoundingSet=${HELPER_CAPABILITIES.join(" ")}`,
  "NoNewPrivileges=yes",
  "PrivateNetwork=yes",
  "PrivateDevices=yes",
  "IPAddressDeny=any",
  ...SANDBOX,
  "SystemCallFilter=@chown",
  "ProtectKernelTunables=yes",
  "RestrictAddressFamilies=AF_UNIX",
  "LimitCORE=0",
  "TasksMax=64",
  "MemoryMax=256M",
];

/** systemd-resolved asks polkit, and no capability helps (org.freedesktop.resolve1(5)). */
export function polkitRules(): string {
  const actions = ["set-dns-servers", "set-domains", "set-default-route", "revert"];
  const ids = actions.map((action) => `    "org.freedesktop.resolve1.${action}",`).join("\n");
  return `// The user ${SERVICE_USER} may set the DNS servers of links in systemd-resolved.
polkit.addRule(function (action, subject) {
  var actions = [
${ids}
  ];
  if (subject.user === "${SERVICE_USER}" && actions.indexOf(action.id) >= 0) return polkit.Result.YES;
});
`;
}

/** Quoted as systemd.service(5), "Command lines", wants it. Throws ServiceRefused for what cannot be in a unit. */
export function commandLine(argv: readonly string[]): string {
  return argv.map(quoted).join(" ");
}

function quoted(word: string): string {
  // oxlint-disable-next-line no-control-regex -- these are what must not get in
  if (/[\u0000-\u001f\u007f]/.test(word)) {
    throw new ServiceRefused(`Cannot install a service with ${JSON.stringify(word)}: it has a control character.`, {
      code: "bad-setting",
    });
  }
  const escaped = word.replaceAll("%", "%%").replaceAll("$", "$$$$");
  if (/^[\w@%+=:,./[\]-]+$/.test(escaped)) return escaped;
  return `"${escaped.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;
}

function text(lines: readonly string[]): string {
  return `# Written by higgs; "higgs ROLE uninstall" takes it away.\n${lines.join("\n")}\n`;
}
