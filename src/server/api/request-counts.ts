// How often each route was asked and answered, by the route's declared path: as many counters as there are routes and statuses.

export class RequestCounts {
  readonly #counts = new Map<string, { readonly route: string; readonly status: number; count: number }>();

  /** `route`: method and declared path; whatever is no route counts as one. */
  add(route: string, status: number): void {
    const key = `${route} ${status}`;
    const found = this.#counts.get(key);
    if (found === undefined) this.#counts.set(key, { route, status, count: 1 });
    else found.count++;
  }

  all(): readonly { readonly route: string; readonly status: number; readonly count: number }[] {
    return [...this.#counts.values()];
  }
}
