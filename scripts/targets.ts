// The platforms that higgs is built for, under the name that each tool has for them.

export type TargetName = "linux-x64" | "linux-arm64" | "darwin-arm64" | "darwin-x64" | "windows-x64";

export interface Target {
  readonly name: TargetName;
  readonly bun: Bun.Build.CompileTarget;
  /** The package that holds libSQL's native part. */
  readonly libsqlPackage: string;
  /** `null` where wireguard-go alone is of no use: on Windows it wants a driver beside it. */
  readonly go: { readonly os: string; readonly arch: string } | null;
  readonly executable: "higgs" | "higgs.exe";
}

export const targets: readonly Target[] = [
  {
    name: "linux-x64",
    bun: "bun-linux-x64",
    libsqlPackage: "@libsql/linux-x64-gnu",
    go: { os: "linux", arch: "amd64" },
    executable: "higgs",
  },
  {
    name: "linux-arm64",
    bun: "bun-linux-arm64",
    libsqlPackage: "@libsql/linux-arm64-gnu",
    go: { os: "linux", arch: "arm64" },
    executable: "higgs",
  },
  {
    name: "darwin-arm64",
    bun: "bun-darwin-arm64",
    libsqlPackage: "@libsql/darwin-arm64",
    go: { os: "darwin", arch: "arm64" },
    executable: "higgs",
  },
  {
    name: "darwin-x64",
    bun: "bun-darwin-x64",
    libsqlPackage: "@libsql/darwin-x64",
    go: { os: "darwin", arch: "amd64" },
    executable: "higgs",
  },
  {
    name: "windows-x64",
    bun: "bun-windows-x64",
    libsqlPackage: "@libsql/win32-x64-msvc",
    go: null,
    executable: "higgs.exe",
  },
];

/** The platform that the build itself runs on, or `undefined` where higgs isn't built for it. */
export function hostTarget(): Target | undefined {
  const os = process.platform === "win32" ? "windows" : process.platform;
  return targets.find((target) => target.name === `${os}-${process.arch}`);
}
