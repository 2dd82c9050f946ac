// A larger receive buffer for a UDP socket, which Bun has no option for: asked of the C library, and gone without where that fails.
//
// The kernel's default (net.core.rmem_default, 208 KiB) holds some ninety full packets, and WireGuard sends hundreds in one go:
// whatever does not fit while this process is busy with the packets before is lost.

/** asm-generic/socket.h; higgs's Linux targets, x86-64 and arm64, both have these. */
const SOL_SOCKET = 1;
const SO_RCVBUF = 8;
/** As SO_RCVBUF, but for root past net.core.rmem_max. */
const SO_RCVBUFFORCE = 33;

const LIBRARIES: Readonly<Record<string, readonly string[]>> = {
  x64: ["libc.so.6", "libc.musl-x86_64.so.1"],
  arm64: ["libc.so.6", "libc.musl-aarch64.so.1"],
};

type SetOption = (fd: number, option: number, bytes: number) => boolean;

let found: Promise<SetOption | null> | undefined;

/** True when the socket now takes `bytes` (the kernel counts its own overhead beside them) or what net.core.rmem_max allows. */
export async function enlargeReceiveBuffer(fd: number, bytes: number): Promise<boolean> {
  found ??= findSetOption();
  const setOption = await found;
  if (setOption === null) return false;
  return setOption(fd, SO_RCVBUFFORCE, bytes) || setOption(fd, SO_RCVBUF, bytes);
}

async function findSetOption(): Promise<SetOption | null> {
  if (process.platform !== "linux") return null;
  const { dlopen } = await import("bun:ffi");
  for (const name of LIBRARIES[process.arch] ?? []) {
    try {
      const { symbols } = dlopen(name, {
        setsockopt: { args: ["i32", "i32", "i32", "buffer", "u32"], returns: "i32" },
      });
      return (fd, option, bytes) => {
        const value = new Uint8Array(Int32Array.of(bytes).buffer); // an int in the machine's own byte order
        return symbols.setsockopt(fd, SOL_SOCKET, option, value, value.length) === 0;
      };
    } catch {
      // not this system's C library
    }
  }
  return null;
}
