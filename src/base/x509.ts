// Loads @peculiar/x509, after the reflect-metadata that it needs before its own first line.
import type * as X509 from "@peculiar/x509";

/** Imported when it is called, one after the other: static imports of the two lose a race, from source and in a bundle. */
export async function loadX509(): Promise<typeof X509> {
  await import("reflect-metadata");
  return await import("@peculiar/x509");
}
