// A resolvectl that keeps what a link was told, prints it, and fails on whatever it does not know.
import { type Exec, type ExecResult, toolMissing } from "../../../../src/net/exec.ts";

export class FakeResolvectl implements Exec {
  onQuery: () => void = () => undefined;
  readonly settings = new Map<string, string>();
  readonly written: string[] = [];
  /** Whether the tool is there, and the service answers. */
  state: "runs" | "stopped" | "absent" = "runs";
  /** The domains of another link. */
  elsewhere = "";
  /** What systemd says before it comes to rest. */
  readonly unsettled: string[] = [];
  /** The verb that polkit refuses. */
  refuses: string | null = null;

  async run(argv: readonly [string, ...string[]]): Promise<ExecResult> {
    const [tool, verb = "", link, ...values] = argv;
    if (argv.join(" ") === "systemctl is-active systemd-resolved.service") {
      if (this.state === "absent") throw toolMissing(tool);
      const state = this.unsettled.shift() ?? (this.state === "runs" ? "active" : "inactive");
      return { code: state === "active" ? 0 : 3, stdout: `${state}\n`, stderr: "" };
    }
    if (tool !== "resolvectl") throw new Error(`FakeResolvectl does not know "${argv.join(" ")}".`);
    if (this.state === "absent") throw toolMissing(tool);
    if (this.state === "stopped")
      return failed("Failed to get global data: Unit dbus-org.freedesktop.resolve1.service not found.");
    if (verb === "query" && link === "--network=no") {
      this.onQuery();
      return failed("resolve call failed: All suitable resolution sources turned off");
    }
    if (verb === "domain" && link === undefined) {
      return done(`Global:\nLink 2 (eth0): ${this.elsewhere}\nLink 7 (higgs0): ${this.settings.get(verb) ?? ""}\n`);
    }
    if (link !== "higgs0" || !["dns", "domain", "default-route", "revert"].includes(verb)) {
      throw new Error(`FakeResolvectl does not know "${argv.join(" ")}".`);
    }
    if (verb !== "revert" && values.length === 0) {
      return done(`Link 7 (higgs0): ${this.settings.get(verb) ?? (verb === "default-route" ? "no" : "")}\n`);
    }
    if (verb === this.refuses) return failed("Failed to set DNS configuration: Interactive authentication required.");
    this.written.push(argv.slice(1).join(" "));
    if (verb === "revert") this.settings.clear();
    else this.settings.set(verb, values.join(" "));
    return done("");
  }

  printed(): string {
    return [...this.settings].map(([verb, values]) => `${verb}: ${values}`).join("\n");
  }
}

function done(stdout: string): ExecResult {
  return { code: 0, stdout, stderr: "" };
}

function failed(stderr: string): ExecResult {
  return { code: 1, stdout: "", stderr: `${stderr}\n` };
}
