// The machines that this one holds on to, kept on disk.
import { SerialQueue } from "../base/async.ts";
import type { MachineName } from "../base/hostname.ts";
import type { MachineRecord } from "../proto/record.ts";
import type { StateDir } from "./state-dir.ts";
import { hasName, judge, type Judgement, type TrustContext, type TrustedMachine, trustFileSchema } from "./trust.ts";

export class TrustStore {
  readonly #dir: StateDir;
  #machines: readonly TrustedMachine[];
  readonly #writes = new SerialQueue();
  #dirty = false;

  private constructor(dir: StateDir, machines: readonly TrustedMachine[]) {
    this.#dir = dir;
    this.#machines = machines;
  }

  static async open(dir: StateDir): Promise<TrustStore> {
    const file = await dir.readJson("trust.json", trustFileSchema);
    return new TrustStore(dir, file?.machines ?? []);
  }

  list(): readonly TrustedMachine[] {
    return this.#machines;
  }

  /** Judges and remembers in memory; `save` makes it last. */
  admit(record: MachineRecord, context: TrustContext): Judgement {
    const judgement = judge(record, this.#machines, context);
    if (judgement.kind === "learned") {
      this.#machines = [...this.#machines.filter((machine) => machine !== judgement.replaces), judgement.machine];
      this.#dirty = true;
    }
    return judgement;
  }

  /** Writes what `admit` learned. Before a peer is used, what is known of it must be on disk. */
  save(): Promise<void> {
    return this.#writes.run(async () => {
      if (!this.#dirty) return;
      this.#dirty = false;
      try {
        await this.#dir.writeJson("trust.json", { version: 1, machines: this.#machines });
      } catch (thrown) {
        this.#dirty = true;
        throw thrown;
      }
    });
  }

  /** False when no machine of that name is held on to. A name that a machine had before becomes free; the machine stays. */
  async forget(name: MachineName): Promise<boolean> {
    if (!this.#machines.some((machine) => hasName(machine, name))) return false;
    this.#machines = this.#machines
      .filter((machine) => machine.name !== name)
      .map((machine) => ({ ...machine, formerNames: machine.formerNames.filter((former) => former !== name) }));
    this.#dirty = true;
    await this.save();
    return true;
  }
}
