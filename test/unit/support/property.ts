// Property checks with a bounded number of runs: the same ones every time, or more and others when asked.
import fc from "fast-check";

/** `HIGGS_FUZZ_RUNS=100000 HIGGS_FUZZ_SEED=7 bun test test/unit/proto` looks further than a normal run. */
const RUNS = Number(process.env["HIGGS_FUZZ_RUNS"] ?? 300);
const SEED = Number(process.env["HIGGS_FUZZ_SEED"] ?? 8489);

/** `costly`: for what takes a millisecond a run, such as a signature. */
export function check<T>(property: fc.IProperty<T>, options: { readonly costly?: boolean } = {}): void {
  fc.assert(property, { numRuns: options.costly === true ? Math.ceil(RUNS / 10) : RUNS, seed: SEED });
}
