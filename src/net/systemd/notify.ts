// Telling the service manager how we are (sd_notify(3)): a datagram to the socket that it named, by the C library, as Bun has none for it.
import { C_LIBRARIES } from "../udp-options.ts";

/** Sends assignments such as `READY=1`; false when it did not leave. */
export type Notify = (state: string) => boolean;

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
/** asm-generic/fcntl.h, O_CLOEXEC; the same on x86-64 and arm64. */
const SOCK_CLOEXEC = 0o2000000;
/** sizeof(sun_path), unix(7). */
const PATH_LIMIT = 108;

/** Null where there is no service manager to tell, or no way to. `socketPath` is $NOTIFY_SOCKET. */
export async function notifier(socketPath: string | undefined): Promise<Notify | null> {
  if (socketPath === undefined || process.platform !== "linux") return null;
  const address = socketAddress(socketPath);
  if (address === null) return null;
  const { dlopen } = await import("bun:ffi");
  for (const name of C_LIBRARIES[process.arch] ?? []) {
    try {
      const { symbols } = dlopen(name, {
        socket: { args: ["i32", "i32", "i32"], returns: "i32" },
        sendto: { args: ["i32", "buffer", "u64", "i32", "buffer", "u32"], returns: "i64" },
      });
      const fd = symbols.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0); // open for as long as the process lives
      if (fd < 0) return null;
      return (state) => {
        const bytes = new TextEncoder().encode(state);
        return Number(symbols.sendto(fd, bytes, bytes.length, 0, address, address.length)) === bytes.length;
      };
    } catch {
      // not this system's C library
    }
  }
  return null;
}

/** `struct sockaddr_un`: two bytes of family in the machine's order, then the path; "@" stands for the abstract name space. */
export function socketAddress(path: string): Uint8Array | null {
  const bytes = new TextEncoder().encode(path);
  if (bytes.length === 0 || bytes.length >= PATH_LIMIT || !/^[/@]/.test(path)) return null;
  const isAbstract = path.startsWith("@");
  const address = new Uint8Array(2 + bytes.length + (isAbstract ? 0 : 1));
  new Uint16Array(address.buffer, 0, 1)[0] = AF_UNIX;
  address.set(bytes, 2);
  if (isAbstract) address[2] = 0;
  return address;
}
