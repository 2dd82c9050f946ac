// Pinned TLS: learning a server's leaf certificate, and options by which fetch and WebSocket accept that key alone.
import { createHash, X509Certificate } from "node:crypto";
import type { Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { toBase64Url } from "../base/bytes.ts";
import { HiggsError } from "../base/errors.ts";
import type { SpkiHash } from "../proto/keys.ts";

/** A server's leaf certificate, as a machine holds on to it. */
export interface ServerPin {
  readonly certPem: string;
  readonly spki: SpkiHash;
  readonly selfSigned: boolean;
}

export class TlsError extends HiggsError {
  override readonly name = "TlsError";
}

/** SHA-256 over the DER of the certificate's SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7). */
export function spkiOf(certificate: X509Certificate): SpkiHash {
  const spki = certificate.publicKey.export({ type: "spki", format: "der" });
  return toBase64Url(createHash("sha256").update(spki).digest()) as SpkiHash;
}

export function pinOf(certificate: X509Certificate): ServerPin {
  const selfSigned = certificate.issuer === certificate.subject && certificate.verify(certificate.publicKey);
  return { certPem: certificate.toString(), spki: spkiOf(certificate), selfSigned };
}

/**
 * The leaf that a server shows, unverified: nothing but the handshake is sent, and nothing secret may follow on its word.
 * Throws TlsError `server-unreachable` or `server-no-tls`.
 */
export async function probeLeaf(
  target: {
    readonly address: string;
    readonly port: number;
    readonly serverName: string;
    /** A connection to the server that is there already, such as one through a proxy; it is closed afterwards. */
    readonly socket?: Socket;
  },
  signal: AbortSignal,
): Promise<ServerPin> {
  const where = `${target.serverName}:${target.port}`;
  const options = {
    ...(target.socket === undefined ? { host: target.address, port: target.port } : { socket: target.socket }),
    rejectUnauthorized: false,
    ...(isName(target.serverName) ? { servername: target.serverName } : {}),
  };
  return await new Promise<ServerPin>((resolve, reject) => {
    if (signal.aborted) {
      reject(signal.reason as Error);
      return;
    }
    const socket = connectTls(options);
    const finish = (settle: () => void): void => {
      signal.removeEventListener("abort", onAbort);
      socket.destroy();
      target.socket?.destroy();
      settle();
    };
    const onAbort = (): void => finish(() => reject(signal.reason as Error));
    signal.addEventListener("abort", onAbort, { once: true });
    socket.once("secureConnect", () => {
      const raw = socket.getPeerCertificate(true).raw as Uint8Array | undefined;
      finish(() => {
        if (raw === undefined) reject(noTls(where));
        else resolve(pinOf(new X509Certificate(raw)));
      });
    });
    socket.once("error", (cause: Error) => {
      const refused = /ECONN|EHOST|ENET|ETIMEDOUT|closed/i.test(
        `${(cause as { code?: string }).code} ${cause.message}`,
      );
      finish(() => reject(refused ? unreachable(where, cause) : noTls(where, cause)));
    });
    socket.once("close", () => finish(() => reject(unreachable(where))));
  });
}

function unreachable(where: string, cause?: unknown): TlsError {
  return new TlsError(`Cannot reach the server at ${where}: it does not answer.`, {
    code: "server-unreachable",
    remedy: "Check that `higgs server` runs there and that its TCP port is open.",
    cause,
  });
}

function noTls(where: string, cause?: unknown): TlsError {
  return new TlsError(`Cannot talk to ${where}: what answers there does not speak TLS.`, {
    code: "server-no-tls",
    remedy: "Check the host and the port: the server's own are in the invite that it printed.",
    cause,
  });
}

function isName(host: string): boolean {
  return /[a-z]/i.test(host) && !host.includes(":");
}

/** The `tls` option of Bun's fetch and WebSocket. */
export interface PinnedTls {
  readonly ca?: string;
  readonly serverName?: string;
  readonly checkServerIdentity: (hostname: string, certificate: { readonly raw: Uint8Array }) => Error | undefined;
}

/**
 * Accepts the pinned key and no other, before a byte of ours is sent. A self-signed certificate is its own root;
 * one from a CA is checked against the system's roots, and then its key is compared.
 */
export function pinnedTls(pin: ServerPin, serverName: string): PinnedTls {
  const name = isName(serverName) ? { serverName } : {};
  if (pin.selfSigned) return { ...name, ca: pin.certPem, checkServerIdentity: () => undefined };
  return {
    ...name,
    checkServerIdentity: (_hostname, certificate) => {
      const spki = spkiOf(new X509Certificate(certificate.raw));
      if (spki === pin.spki) return undefined;
      return new TlsError("Cannot trust the server's certificate: its key is not the one that was proven.", {
        code: "server-key-changed",
      });
    },
  };
}
