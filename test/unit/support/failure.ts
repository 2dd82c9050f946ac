// What a promise fails with, for tests that look at the error's code.

/** Fails itself when the promise is kept. */
export async function failureOf(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (thrown) {
    return thrown;
  }
  throw new Error("The promise was kept.");
}
