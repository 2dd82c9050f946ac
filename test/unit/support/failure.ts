// What a promise fails with, for tests that look at the error's code.

/** Fails itself when the promise is kept. */
export async function failureOf(promise: Promise<unknown>): Promise<unknown> {
  const kept = await promise.then(
    () => true,
    (thrown: unknown) => ({ thrown }),
  );
  if (kept === true) throw new Error("The promise was kept.");
  return kept.thrown;
}
