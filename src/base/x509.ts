// Loads @peculiar/x509, after the reflect-metadata that it needs before its own first line.

/** Imported when it is called, one after the other: static imports of the two lose a race, from source and in a bundle. */
export async function loadX509(): Promise<typeof import("@peculiar/x509")> {
  await import("reflect-metadata");
  return await import("@peculiar/x509");
}
