// Runs in the lab's hosts: sends one packet of each kind that was ordered, by the C library itself, as a hostile program would.
import { dlopen, FFIType, ptr, read } from "bun:ffi";
import type { Order } from "./state-probes.ts";

const { i32, u32, ptr: pointer, u64 } = FFIType;
const { symbols: c } = dlopen("libc.so.6", {
  socket: { args: [i32, i32, i32], returns: i32 },
  setsockopt: { args: [i32, i32, i32, pointer, u32], returns: i32 },
  bind: { args: [i32, pointer, u32], returns: i32 },
  connect: { args: [i32, pointer, u32], returns: i32 },
  sendto: { args: [i32, pointer, u64, i32, pointer, u32], returns: i32 },
  recvfrom: { args: [i32, pointer, u64, i32, pointer, pointer], returns: i32 },
  close: { args: [i32], returns: i32 },
  if_nametoindex: { args: [pointer], returns: u32 },
  __errno_location: { args: [], returns: pointer },
});

const AF_INET = 2;
const AF_INET6 = 10;
const AF_PACKET = 17;
const SOCK = { tcp: 1, udp: 2, icmp: 3 } as const;
const NONBLOCK = 0o4000;
const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const SO_BROADCAST = 6;
const SO_BINDTODEVICE = 25;
const SO_MARK = 36;
const MSG_DONTWAIT = 0x40;
const EISCONN = 106;
const ENOBUFS = 105;

const errno = (): number => {
  const at = c.__errno_location();
  return at === null ? 0 : read.i32(at);
};

function bytesOf(address: string): Uint8Array {
  if (!address.includes(":")) return Uint8Array.from(address.split(".").map(Number));
  const [head = "", tail = ""] = address.split("::");
  const words = (text: string): number[] =>
    text === "" ? [] : text.split(":").map((word) => Number.parseInt(word, 16));
  const left = words(head);
  const right = words(tail);
  const all = address.includes("::")
    ? [...left, ...Array<number>(8 - left.length - right.length).fill(0), ...right]
    : left;
  return Uint8Array.from(all.flatMap((word) => [word >> 8, word & 0xff]));
}

/** sockaddr_in or sockaddr_in6 (ip(7), ipv6(7)). */
function socketAddress(address: string, port: number): Uint8Array {
  const bytes = bytesOf(address);
  const out = new Uint8Array(bytes.length === 4 ? 16 : 28);
  new DataView(out.buffer).setUint16(0, bytes.length === 4 ? AF_INET : AF_INET6, true);
  new DataView(out.buffer).setUint16(2, port, false);
  out.set(bytes, bytes.length === 4 ? 4 : 8);
  return out;
}

function setInt(fd: number, option: number, value: number): void {
  const int = new Int32Array([value]);
  if (c.setsockopt(fd, SOL_SOCKET, option, ptr(int), 4) !== 0) throw new Error(`setsockopt ${option}: ${errno()}`);
}

function send(order: Order): number {
  if (order.frame !== undefined) return sendFrame(order.frame, order.device ?? "eth0");
  const six = order.to.includes(":");
  const domain = six ? AF_INET6 : AF_INET;
  const protocol = order.kind === "icmp" ? (six ? 58 : 1) : 0;
  const fd = c.socket(domain, SOCK[order.kind] | NONBLOCK, protocol);
  if (fd < 0) throw new Error(`socket: ${errno()}`);
  if (order.device !== undefined) {
    const name = new TextEncoder().encode(`${order.device}\0`);
    if (c.setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, ptr(name), name.length) !== 0)
      throw new Error(`device: ${errno()}`);
  }
  if (order.mark !== undefined) setInt(fd, SO_MARK, order.mark);
  if (order.kind === "udp") setInt(fd, SO_BROADCAST, 1);
  if (order.fromPort !== undefined) {
    setInt(fd, SO_REUSEADDR, 1); // several orders may be from the same one
    const from = socketAddress(six ? "::" : "0.0.0.0", order.fromPort);
    if (c.bind(fd, ptr(from), from.length) !== 0) throw new Error(`bind ${order.fromPort}: ${errno()}`);
  }
  const to = socketAddress(order.to, order.kind === "icmp" ? 0 : order.port);
  if (order.kind === "tcp") c.connect(fd, ptr(to), to.length);
  else {
    const payload = order.kind === "icmp" ? echo(order.port, six) : Uint8Array.fromHex(order.payload ?? "6c65616b");
    c.sendto(fd, ptr(payload), payload.length, MSG_DONTWAIT, ptr(to), to.length);
  }
  return fd;
}

/**
 * An echo request of so many bytes (RFC 792, RFC 4443), with the length as its identifier too: connection tracking would take it for
 * an earlier one otherwise. The kernel itself sums up that of IPv6.
 */
function echo(length: number, six: boolean): Uint8Array {
  const out = new Uint8Array(length);
  const view = new DataView(out.buffer);
  view.setUint8(0, six ? 128 : 8);
  view.setUint16(4, length);
  if (!six) view.setUint16(2, ~(0x0800 + length) & 0xffff);
  return out;
}

/** Past the whole IP layer (packet(7)); sockaddr_ll names the interface. */
function sendFrame(hex: string, device: string): number {
  const fd = c.socket(AF_PACKET, 3, 0);
  if (fd < 0) throw new Error(`packet socket: ${errno()}`);
  const name = new TextEncoder().encode(`${device}\0`);
  const to = new Uint8Array(20);
  new DataView(to.buffer).setUint16(0, AF_PACKET, true);
  new DataView(to.buffer).setInt32(4, c.if_nametoindex(ptr(name)), true);
  const frame = Uint8Array.fromHex(hex);
  // The kernel's word for what the egress hook drops is "no buffer space".
  if (c.sendto(fd, ptr(frame), frame.length, 0, ptr(to), to.length) < 0 && errno() !== ENOBUFS) {
    throw new Error(`frame of ${frame.length} bytes: ${errno()}`);
  }
  return fd;
}

/** An echo's socket gets everybody's messages: whether it was answered is not to be known here. */
function isAnswered(order: Order, fd: number): boolean {
  if (order.kind === "icmp") return false;
  if (order.kind === "tcp") {
    const to = socketAddress(order.to, order.port);
    return c.connect(fd, ptr(to), to.length) === 0 || errno() === EISCONN;
  }
  // By whom it was asked: a port may get what was meant for one who had it before.
  const wanted = socketAddress(order.to, order.port);
  const addressAt = wanted.length === 16 ? 2 : 8;
  const buffer = new Uint8Array(2048);
  for (;;) {
    const from = new Uint8Array(wanted.length);
    if (c.recvfrom(fd, ptr(buffer), 2048, MSG_DONTWAIT, ptr(from), ptr(new Uint32Array([from.length]))) < 0)
      return false;
    const same = (at: number, length: number): boolean =>
      from.subarray(at, at + length).every((byte, i) => byte === wanted[at + i]);
    if (same(2, 2) && same(addressAt, wanted.length === 16 ? 4 : 16)) return true;
  }
}

interface Work {
  readonly orders: readonly Order[];
  /** Sends each once, and says after so long which were answered. */
  readonly waitMs?: number;
  /** Sends all of them again and again, so often, until it is ended. */
  readonly everyMs?: number;
}

/** One after the other; then the ids of those that were answered. What the kernel refuses to send is as good as not sent. */
async function sendOnce(orders: readonly Order[], waitMs: number): Promise<void> {
  const errors: string[] = [];
  const open: { readonly order: Order; readonly fd: number }[] = [];
  for (const order of orders) {
    try {
      open.push({ order, fd: send(order) });
    } catch (thrown) {
      errors.push(`${order.id}: ${String(thrown)}`);
    }
    await Bun.sleep(1); // no burst that a limit of somebody's would cut
  }
  await Bun.sleep(waitMs);
  const answered = open.filter(({ order, fd }) => isAnswered(order, fd)).map(({ order }) => order.id);
  console.log(JSON.stringify({ answered, errors }));
}

/** A socket of its own for each, as an application that begins now has; late rounds are made up for. */
async function sendOn(orders: readonly Order[], everyMs: number): Promise<void> {
  const start = performance.now();
  for (let round = 0; ; round++) {
    for (const order of orders) c.close(send(order));
    if (round % 10 === 0) console.log(`round ${round}`);
    await Bun.sleep(Math.max(0, start + (round + 1) * everyMs - performance.now()));
  }
}

const { orders, waitMs = 0, everyMs } = JSON.parse(process.argv[2] ?? "{}") as Work;
if (everyMs === undefined) await sendOnce(orders, waitMs);
else await sendOn(orders, everyMs);
