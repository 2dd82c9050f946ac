// Takes an nft table away without the program nft: a kill switch must come off on a machine that has lost it.
import { type Exec, ToolMissing } from "../exec.ts";
import { C_LIBRARIES } from "../udp-options.ts";
import type { NftFamily } from "./nft-table.ts";

/*
 * One transaction to the kernel (linux/netlink.h, linux/netfilter/nfnetlink.h, nf_tables.h), in the machine's byte order but for the
 * resource id, which is big-endian:
 *
 *   nlmsghdr   4 length | 2 type | 2 flags | 4 sequence | 4 port
 *   nfgenmsg   1 family | 1 version | 2 resource id
 *   nlattr     2 length | 2 type | name, a zero, and zeros up to a multiple of 4
 *
 *   batch begin  type 16, family 0, resource nf_tables
 *   delete table type nf_tables << 8 | 2, family of the table, attribute 1: its name; to be acknowledged
 *   batch end    type 17
 *
 * The answer is an nlmsghdr of type 2 and 4 bytes: 0, or an errno with a minus.
 */
const HEADER_BYTES = 16;
const GENERIC_BYTES = 4;
const BATCH_BEGIN = 16;
const BATCH_END = 17;
const NF_TABLES = 10;
const DELETE_TABLE = (NF_TABLES << 8) | 2;
const ERROR = 2;
const REQUEST = 1;
const ACKNOWLEDGE = 4;
const TABLE_NAME = 1;
const FAMILIES: Readonly<Record<NftFamily, number>> = { inet: 1, netdev: 5 };
const SEQUENCE = 2;

/** The whole transaction. */
export function deletionBytes(table: string, family: NftFamily): Uint8Array {
  const name = new TextEncoder().encode(`${table}\0`);
  const attribute = new Uint8Array(4 + Math.ceil(name.length / 4) * 4);
  const view = new DataView(attribute.buffer);
  view.setUint16(0, 4 + name.length, true);
  view.setUint16(2, TABLE_NAME, true);
  attribute.set(name, 4);
  const messages = [
    message(BATCH_BEGIN, { flags: REQUEST, sequence: 1, resource: NF_TABLES }),
    message(DELETE_TABLE, { flags: REQUEST | ACKNOWLEDGE, sequence: SEQUENCE, family: FAMILIES[family], attribute }),
    message(BATCH_END, { flags: REQUEST, sequence: 3, resource: NF_TABLES }),
  ];
  return new Uint8Array(Buffer.concat(messages));
}

interface Message {
  readonly flags: number;
  readonly sequence: number;
  readonly family?: number;
  readonly resource?: number;
  readonly attribute?: Uint8Array;
}

/** Both architectures that higgs runs on are little-endian. */
function message(type: number, { flags, sequence, family = 0, resource = 0, attribute }: Message): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + GENERIC_BYTES + (attribute?.length ?? 0));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, bytes.length, true);
  view.setUint16(4, type, true);
  view.setUint16(6, flags, true);
  view.setUint32(8, sequence, true);
  view.setUint8(16, family);
  view.setUint16(18, resource, false);
  if (attribute !== undefined) bytes.set(attribute, HEADER_BYTES + GENERIC_BYTES);
  return bytes;
}

/** The errno in the kernel's answer to the deletion, 0 when it is done; null for bytes that hold no such answer. */
export function answerIn(bytes: Uint8Array): number | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at + HEADER_BYTES + 4 <= bytes.length; ) {
    const length = view.getUint32(at, true);
    if (length < HEADER_BYTES) return null;
    const isAnswer = view.getUint16(at + 4, true) === ERROR && view.getUint32(at + 8, true) === SEQUENCE;
    if (isAnswer) return Math.abs(view.getInt32(at + HEADER_BYTES, true));
    at += Math.ceil(length / 4) * 4;
  }
  return null;
}

const AF_NETLINK = 16;
const SOCK_RAW_CLOEXEC = 3 | 0o2000000;
const NETLINK_NETFILTER = 12;
const SOL_SOCKET = 1;
const SO_RCVTIMEO = 20;
/** The kernel answers while it takes the request. */
const ANSWER_S = 2n;
const NO_SUCH_FILE = 2;

/** True when the table was there and is gone, false when there was none; null where the kernel could not be asked, or refused. */
export async function deleteTableByNetlink(table: string, family: NftFamily): Promise<boolean | null> {
  const library = await openLibrary();
  if (library === null) return null;
  const fd = library.socket(AF_NETLINK, SOCK_RAW_CLOEXEC, NETLINK_NETFILTER);
  if (fd < 0) return null;
  try {
    const limit = new BigInt64Array([ANSWER_S, 0n]); // struct timeval
    library.setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, new Uint8Array(limit.buffer), limit.byteLength);
    const request = deletionBytes(table, family);
    if (Number(library.send(fd, request, request.length, 0)) !== request.length) return null;
    const answer = new Uint8Array(4096);
    const length = Number(library.recv(fd, answer, answer.length, 0));
    const errno = length > 0 ? answerIn(answer.subarray(0, length)) : null;
    if (errno === 0) return true;
    return errno === NO_SUCH_FILE ? false : null;
  } finally {
    library.close(fd);
  }
}

async function openLibrary() {
  if (process.platform !== "linux") return null;
  const { dlopen } = await import("bun:ffi");
  for (const name of C_LIBRARIES[process.arch] ?? []) {
    try {
      return dlopen(name, {
        socket: { args: ["i32", "i32", "i32"], returns: "i32" },
        setsockopt: { args: ["i32", "i32", "i32", "buffer", "u32"], returns: "i32" },
        send: { args: ["i32", "buffer", "u64", "i32"], returns: "i64" },
        recv: { args: ["i32", "buffer", "u64", "i32"], returns: "i64" },
        close: { args: ["i32"], returns: "i32" },
      }).symbols;
    } catch {
      // not this system's C library
    }
  }
  return null;
}

/** As `exec`; what `nft delete table` would do is asked of the kernel itself where there is no nft. */
export function removingWithoutNft(exec: Exec): Exec {
  return {
    async run(argv, options) {
      try {
        return await exec.run(argv, options);
      } catch (thrown) {
        const [tool, verb, what, family, table] = argv;
        const isRemoval = tool === "nft" && verb === "delete" && what === "table" && table !== undefined;
        if (!(thrown instanceof ToolMissing) || !isRemoval || (family !== "inet" && family !== "netdev")) throw thrown;
        const wasThere = await deleteTableByNetlink(table, family);
        if (wasThere === null) throw thrown;
        return { code: wasThere ? 0 : 1, stdout: "", stderr: wasThere ? "" : "No such file or directory" };
      }
    },
  };
}
