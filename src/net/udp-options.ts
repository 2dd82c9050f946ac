// Options of a UDP socket that Bun has no word for: asked of the C library, and gone without where that fails.

/** Sets an option that is an int; false when the kernel refuses. */
export type SetOption = (fd: number, option: SocketOption, value: number) => boolean;

export interface SocketOption {
  readonly level: number;
  readonly name: number;
}

// asm-generic/socket.h and linux/udp.h; higgs's Linux targets, x86-64 and arm64, both have these.
const SOL_SOCKET = 1;
const SOL_UDP = 17;
const SO_RCVBUF: SocketOption = { level: SOL_SOCKET, name: 8 };
/** As SO_RCVBUF, but for root past net.core.rmem_max. */
const SO_RCVBUFFORCE: SocketOption = { level: SOL_SOCKET, name: 33 };
/** A datagram that is longer leaves as several of this size, the last of what remains; 0 is off. */
export const UDP_SEGMENT: SocketOption = { level: SOL_UDP, name: 103 };

/** By architecture: glibc, and musl. */
export const C_LIBRARIES: Readonly<Record<string, readonly string[]>> = {
  x64: ["libc.so.6", "libc.musl-x86_64.so.1"],
  arm64: ["libc.so.6", "libc.musl-aarch64.so.1"],
};

let found: Promise<SetOption | null> | undefined;

/** Null on systems other than Linux, and with a C library that is not known. */
export function socketOptions(): Promise<SetOption | null> {
  found ??= findSetOption();
  return found;
}

async function findSetOption(): Promise<SetOption | null> {
  if (process.platform !== "linux") return null;
  const { dlopen } = await import("bun:ffi");
  for (const name of C_LIBRARIES[process.arch] ?? []) {
    try {
      const { symbols } = dlopen(name, {
        setsockopt: { args: ["i32", "i32", "i32", "buffer", "u32"], returns: "i32" },
      });
      const int = new Int32Array(1);
      const bytes = new Uint8Array(int.buffer); // in the machine's own byte order
      return (fd, option, value) => {
        int[0] = value;
        return symbols.setsockopt(fd, option.level, option.name, bytes, bytes.length) === 0;
      };
    } catch {
      // not this system's C library
    }
  }
  return null;
}

/** Not in Bun's types. Null where Bun does not say it, or the socket is closed. */
export function fdOf(socket: object): number | null {
  return "fd" in socket && typeof socket.fd === "number" && socket.fd >= 0 ? socket.fd : null;
}

/**
 * Room for bursts: the kernel's default (net.core.rmem_default, 208 KiB) holds some ninety full packets, and WireGuard sends
 * hundreds in one go. False when the default stays; without root the kernel gives at most net.core.rmem_max.
 */
export async function enlargeReceiveBuffer(socket: object, bytes: number): Promise<boolean> {
  const set = await socketOptions();
  const fd = fdOf(socket);
  if (set === null || fd === null) return false;
  return set(fd, SO_RCVBUFFORCE, bytes) || set(fd, SO_RCVBUF, bytes);
}
