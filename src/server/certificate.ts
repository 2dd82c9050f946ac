// The server's TLS certificate: a self-signed one made once, or the operator's own, and the hash of its public key.
import { loadX509 } from "../base/x509.ts";
import { X509Certificate } from "node:crypto";
import { toHex } from "../base/bytes.ts";
import { HiggsError } from "../base/errors.ts";
import { parseIp } from "../base/ip.ts";
import { spkiOf as spkiOfLeaf } from "../net/tls.ts";
import type { SpkiHash } from "../proto/keys.ts";

export class CertificateError extends HiggsError {
  override readonly name = "CertificateError";
}

export interface ServerTls {
  readonly certPem: string;
  /** Null when TLS ends before this process, at a reverse proxy that holds this certificate's key. */
  readonly keyPem: string | null;
  /** Of the leaf. */
  readonly spki: SpkiHash;
}

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;

/** `hosts`: names and addresses without ports. It is pinned by its key, so it never ends and needs no clock (RFC 5280 section 4.1.2.5). */
export async function makeSelfSigned(hosts: readonly string[]): Promise<{ certPem: string; keyPem: string }> {
  const {
    BasicConstraintsExtension,
    ExtendedKeyUsage,
    ExtendedKeyUsageExtension,
    KeyUsageFlags,
    KeyUsagesExtension,
    PemConverter,
    SubjectAlternativeNameExtension,
    X509CertificateGenerator,
  } = await loadX509();
  const keys = await crypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"]);
  const certificate = await X509CertificateGenerator.createSelfSigned({
    serialNumber: toHex(
      crypto.getRandomValues(new Uint8Array(16)).map((byte, i) => (i === 0 ? (byte & 0x3f) | 0x40 : byte)),
    ),
    name: "CN=higgs",
    notBefore: new Date("1970-01-01T00:00:00Z"),
    notAfter: new Date("9999-12-31T23:59:59Z"),
    signingAlgorithm: ALGORITHM,
    keys,
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth]),
      new SubjectAlternativeNameExtension(
        [...new Set([...hosts, "localhost"])].map((host) => ({
          type: parseIp(host) === null ? ("dns" as const) : ("ip" as const),
          value: host,
        })),
      ),
    ],
  });
  const pkcs8 = await crypto.subtle.exportKey("pkcs8", keys.privateKey);
  return { certPem: certificate.toString("pem"), keyPem: PemConverter.encode(pkcs8, "PRIVATE KEY") };
}

/** Of the first certificate in the text. Throws CertificateError `certificate-unreadable`. */
export function spkiOf(certPem: string): SpkiHash {
  try {
    const first = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/.exec(certPem)?.[0];
    if (first === undefined) throw new Error("no PEM block of a certificate");
    return spkiOfLeaf(new X509Certificate(first));
  } catch (thrown) {
    throw new CertificateError("Cannot read the certificate: it is no PEM of an X.509 certificate.", {
      code: "certificate-unreadable",
      remedy: "Name a PEM file whose first certificate is the server's own, with --cert.",
      cause: thrown,
    });
  }
}
