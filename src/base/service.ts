// What a running part of the program is: ready once it exists, and over once it is disposed.

/**
 * Disposing aborts the service's own controller first, then awaits its loops, then closes its handles; twice is harmless.
 * The function that makes one resolves when it is ready, and leaves nothing behind when it throws.
 */
export type Service = AsyncDisposable;
