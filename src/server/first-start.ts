// The server's folder: on the first start the network's identity, the certificate and the database are made; later they are loaded, and none is ever made anew silently.
import { readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import { fromBase64Url, toBase64Url, utf8, utf8Text } from "../base/bytes.ts";
import { HiggsError } from "../base/errors.ts";
import type { Cidr } from "../base/ip.ts";
import type { Logger } from "../base/log.ts";
import { ensurePrivateDir, readSecretFile, syncDir, writeSecretFile } from "../net/secret-file.ts";
import { type IdentityKey, type IdentitySecret, identityKeyOf, newIdentity } from "../proto/keys.ts";
import { CertificateError, makeSelfSigned, type ServerTls, spkiOf } from "./certificate.ts";
import { type Database, openDatabase } from "./db/open.ts";
import { belongsTo, createNetwork } from "./network.ts";

export class StateError extends HiggsError {
  override readonly name = "StateError";
}

export type TlsChoice =
  /** `hosts`: names and addresses that the certificate names. It is made once and then kept. */
  | { readonly kind: "self"; readonly hosts: readonly string[] }
  | { readonly kind: "files"; readonly certPath: string; readonly keyPath: string }
  /** TLS ends at a reverse proxy, which holds the key of this certificate. */
  | { readonly kind: "proxy"; readonly certPath: string };

export interface StateOptions {
  readonly stateDir: string;
  /** Null for `higgs.db` in the state folder. */
  readonly databaseUrl: string | null;
  readonly databaseToken?: string;
  readonly tls: TlsChoice;
  /** Counts at the first start only; null draws one. */
  readonly networkRange: Cidr | null;
  readonly log: Logger;
}

export interface ServerState {
  readonly identity: IdentitySecret;
  readonly tls: ServerTls;
  /** The caller closes it. */
  readonly database: Database;
  readonly isFirstStart: boolean;
}

const NAMES = { identity: "network.key", database: "higgs.db", cert: "tls.crt", key: "tls.key" } as const;

/**
 * The identity is written under a name of its own before the database is made, and gets its real one after it: a first start that was
 * killed goes on where it was, and a `network.key` without its database is an error, never a new network.
 * Throws StateError, SecretFileError, DatabaseError or CertificateError.
 */
export async function openServerState(options: StateOptions): Promise<ServerState> {
  await ensurePrivateDir(options.stateDir);
  const identityPath = join(options.stateDir, NAMES.identity);
  const pendingPath = `${identityPath}.new`;
  const known = await readIdentity(identityPath);
  const identity = known ?? (await readIdentity(pendingPath)) ?? newIdentity();
  const tls = await loadTls(options);
  if (known === null) await writeSecretFile(pendingPath, utf8(`${toBase64Url(identity)}\n`));
  const database = await openDatabase({
    url: options.databaseUrl ?? `file:${databaseFile(options.stateDir)}`,
    mayCreate: known === null,
    examine: belongsTo(identityKeyOf(identity)),
    log: options.log,
    ...(options.databaseToken === undefined ? {} : { authToken: options.databaseToken }),
  });
  try {
    if (known === null) {
      await createNetwork(database, { identity: identityKeyOf(identity), range4: options.networkRange });
      await rename(pendingPath, identityPath);
      await syncDir(options.stateDir);
      options.log.info({ network: identityKeyOf(identity), path: options.stateDir }, "network created");
    }
  } catch (thrown) {
    await database[Symbol.asyncDispose]();
    throw thrown;
  }
  return { identity, tls, database, isFirstStart: known === null };
}

export function databaseFile(stateDir: string): string {
  return join(stateDir, NAMES.database);
}

/** Of a server that has started before. Throws StateError `identity-missing` or `identity-damaged`, or SecretFileError. */
export async function knownIdentity(stateDir: string): Promise<IdentityKey> {
  const path = join(stateDir, NAMES.identity);
  const secret = await readIdentity(path);
  if (secret !== null) return identityKeyOf(secret);
  throw new StateError(`Cannot restore: "${path}" is missing, and no machine trusts a server without it.`, {
    code: "identity-missing",
    remedy: "Put the network.key that was kept with the backup in its place, for its owner only: chmod 600",
    detail: { path },
  });
}

async function readIdentity(path: string): Promise<IdentitySecret | null> {
  const bytes = await readSecretFile(path);
  if (bytes === null) return null;
  let secret: Uint8Array | null = null;
  try {
    secret = fromBase64Url(utf8Text(bytes).trim());
  } catch {
    secret = null; // no UTF-8: damaged, as below
  }
  if (secret?.length !== 32) {
    throw new StateError(`Cannot read the network's identity: "${path}" is damaged.`, {
      code: "identity-damaged",
      remedy: "Put the file back from a backup; without it no machine trusts this server any more.",
      detail: { path },
    });
  }
  return secret as IdentitySecret;
}

async function loadTls(options: StateOptions): Promise<ServerTls> {
  switch (options.tls.kind) {
    case "self":
      return selfSigned(options.stateDir, options.tls.hosts);
    case "files": {
      const certPem = await readCertificate(options.tls.certPath);
      const keyPem = await readSecretFile(options.tls.keyPath);
      if (keyPem === null) throw absent(options.tls.keyPath, "--key");
      return { certPem, keyPem: utf8Text(keyPem), spki: spkiOf(certPem) };
    }
    case "proxy": {
      const certPem = await readCertificate(options.tls.certPath);
      return { certPem, keyPem: null, spki: spkiOf(certPem) };
    }
  }
}

/** The key is written first: a certificate is there only with its key. */
async function selfSigned(stateDir: string, hosts: readonly string[]): Promise<ServerTls> {
  const certPath = join(stateDir, NAMES.cert);
  const keyPath = join(stateDir, NAMES.key);
  const [cert, key] = [await readSecretFile(certPath), await readSecretFile(keyPath)];
  if (cert !== null && key !== null) {
    const certPem = utf8Text(cert);
    return { certPem, keyPem: utf8Text(key), spki: spkiOf(certPem) };
  }
  const made = await makeSelfSigned(hosts);
  await writeSecretFile(keyPath, utf8(made.keyPem));
  await writeSecretFile(certPath, utf8(made.certPem));
  return { ...made, spki: spkiOf(made.certPem) };
}

async function readCertificate(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (thrown) {
    throw absent(path, "--cert", thrown);
  }
}

function absent(path: string, flag: string, cause?: unknown): CertificateError {
  return new CertificateError(`Cannot read "${path}".`, {
    code: "certificate-unreadable",
    remedy: `Name a PEM file that this process may read, with ${flag}.`,
    detail: { path },
    cause,
  });
}
