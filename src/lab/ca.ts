// The lab's certificate authority: one for each lab, its key never leaves the process, and it signs the DNS server's certificate.
import { loadX509 } from "../base/x509.ts";
import { webcrypto } from "node:crypto";

export interface LabCertificates {
  /** What a client has to trust. */
  readonly caPem: string;
  readonly certificatePem: string;
  /** PKCS #8. */
  readonly keyPem: string;
}

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
// Hosts of the lab may have any clock.
const VALID = { notBefore: new Date("1970-01-01T00:00:00Z"), notAfter: new Date("2099-12-31T23:59:59Z") };

/** For the given name and addresses. */
export async function makeLabCertificates(name: string, addresses: readonly string[]): Promise<LabCertificates> {
  const {
    BasicConstraintsExtension,
    ExtendedKeyUsage,
    ExtendedKeyUsageExtension,
    KeyUsageFlags,
    KeyUsagesExtension,
    SubjectAlternativeNameExtension,
    X509CertificateGenerator,
  } = await loadX509();
  const caKeys = await webcrypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"]);
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"]);
  const ca = await X509CertificateGenerator.createSelfSigned(
    {
      ...VALID,
      serialNumber: "01",
      name: "CN=Lab CA",
      keys: caKeys,
      signingAlgorithm: ALGORITHM,
      extensions: [
        new BasicConstraintsExtension(true, 0, true),
        new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      ],
    },
    webcrypto as unknown as Crypto,
  );
  const certificate = await X509CertificateGenerator.create(
    {
      ...VALID,
      serialNumber: "02",
      subject: `CN=${name}`,
      issuer: ca.subject,
      publicKey: keys.publicKey,
      signingKey: caKeys.privateKey,
      signingAlgorithm: ALGORITHM,
      extensions: [
        new BasicConstraintsExtension(false, undefined, true),
        new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
        new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth]),
        new SubjectAlternativeNameExtension([
          { type: "dns", value: name },
          ...addresses.map((value) => ({ type: "ip" as const, value })),
        ]),
      ],
    },
    webcrypto as unknown as Crypto,
  );
  const der = new Uint8Array(await webcrypto.subtle.exportKey("pkcs8", keys.privateKey));
  const lines =
    Buffer.from(der)
      .toString("base64")
      .match(/.{1,64}/g) ?? [];
  return {
    caPem: `${ca.toString("pem")}\n`,
    certificatePem: `${certificate.toString("pem")}\n`,
    keyPem: `-----BEGIN PRIVATE KEY-----\n${lines.join("\n")}\n-----END PRIVATE KEY-----\n`,
  };
}
