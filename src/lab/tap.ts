// A TAP device as two calls, read and write: frames of one Ethernet cable, through the C library, as Bun has no word for it.
//
// struct ifreq, 40 bytes:   0 name, 16 bytes | 16 flags u16 | …          (linux/if.h)
// struct pollfd, 8 bytes:   0 fd i32 | 4 events i16 | 6 revents i16      (poll.h)
// struct timespec, 16:      0 seconds i64 | 8 nanoseconds i64
import { closeSync, constants, openSync } from "node:fs";
import { dlopen } from "bun:ffi";
import { C_LIBRARIES } from "../net/udp-options.ts";
import { LabRefused } from "./errors.ts";

export interface Tap extends Disposable {
  readonly fd: number;
  /** The next frame, in a buffer that the next call uses again; null when none is waiting. */
  read(): Uint8Array | null;
  /** Lost when the kernel has no room, as on a cable. */
  write(frame: Uint8Array): void;
}

export interface Taps {
  /** A device that is there already, with nobody at it. Throws LabRefused. */
  open(name: string): Tap;
  /** Returns when a frame waits at one of them, or after `waitMs`, to the microsecond. Nothing else runs meanwhile. */
  wait(taps: readonly Tap[], waitMs: number): void;
}

const TUNSETIFF = 0x400454ca; // linux/if_tun.h; the same on x86-64 and arm64
const IFF_TAP_NO_PI = 0x0002 | 0x1000;
const POLLIN = 1;
const FRAME_BYTES = 2_048; // 1 500 and an Ethernet header

export function openTaps(): Taps {
  const libc = openLibc();
  return {
    open(name) {
      const fd = openSync("/dev/net/tun", constants.O_RDWR | constants.O_NONBLOCK);
      const request = new Uint8Array(40);
      new TextEncoder().encodeInto(name, request);
      new DataView(request.buffer).setUint16(16, IFF_TAP_NO_PI, true);
      if (libc.ioctl(fd, TUNSETIFF, request) !== 0) {
        closeSync(fd);
        throw new LabRefused(`Cannot open the TAP device "${name}".`, { code: "lab-tap-refused" });
      }
      const frame = new Uint8Array(FRAME_BYTES);
      return {
        fd,
        read() {
          const length = Number(libc.read(fd, frame, frame.length));
          return length > 0 ? frame.subarray(0, length) : null;
        },
        write: (bytes) => void libc.write(fd, bytes, bytes.length),
        [Symbol.dispose]: () => closeSync(fd),
      };
    },
    wait(taps, waitMs) {
      const polled = new DataView(new ArrayBuffer(8 * taps.length));
      taps.forEach(({ fd }, i) => {
        polled.setInt32(8 * i, fd, true);
        polled.setInt16(8 * i + 4, POLLIN, true);
      });
      const microseconds = Math.max(0, Math.ceil(waitMs * 1000));
      const span = new BigInt64Array([BigInt(Math.floor(microseconds / 1e6)), BigInt((microseconds % 1e6) * 1000)]);
      libc.ppoll(new Uint8Array(polled.buffer), taps.length, span, null);
    },
  };
}

function openLibc() {
  for (const name of C_LIBRARIES[process.arch] ?? []) {
    try {
      return dlopen(name, {
        ioctl: { args: ["i32", "u64", "buffer"], returns: "i32" },
        read: { args: ["i32", "buffer", "u64"], returns: "i64" },
        write: { args: ["i32", "buffer", "u64"], returns: "i64" },
        ppoll: { args: ["buffer", "u64", "buffer", "ptr"], returns: "i32" },
      }).symbols;
    } catch {
      // not this system's C library
    }
  }
  throw new LabRefused("Cannot hold packets up: this system's C library is not known.", { code: "lab-tap-refused" });
}
