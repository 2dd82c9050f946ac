// Declares the wireguard-go that the build puts into the executable.
declare module "higgs:carried-wireguard-go" {
  /** One wireguard-go binary for the running platform. It was built from the version that go.mod pins. */
  export interface CarriedWireguardGo {
    /** Path of the gzipped binary; inside the executable, or in the build's folder when run from source. `Bun.file(gzPath)` reads it. */
    readonly gzPath: string;
    /** SHA-256 of the unpacked binary, 64 lower-case hex digits. Compare it before every start. */
    readonly sha256: string;
    /** The Go module's version, as in go.mod. */
    readonly version: string;
  }

  /** `null`: this executable was built without Go at hand, or for a platform without wireguard-go. */
  export const carried: CarriedWireguardGo | null;
}
