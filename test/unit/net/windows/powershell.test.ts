// PowerShell's command lines: whatever is handed over stays data, and what does not fit is refused.
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { z } from "zod";
import type { Exec } from "../../../../src/net/exec.ts";
import { argvOf, identityFrom } from "../../../../src/net/windows-process.ts";
import { windowsToolDirs, windowsToolEnvironment } from "../../../../src/net/windows-names.ts";
import { askScript, runScript, scriptArgv } from "../../../../src/net/powershell.ts";
import { WINDOWS_SCRIPTS } from "../../../../src/net/windows-scripts.ts";
import { scriptOf } from "./fake-windows.ts";
import { failureOf } from "../../support/failure.ts";

const HOSTILE = [
  "'; calc #",
  '" & calc & "',
  "$(calc)",
  "`$(calc)",
  "a\nb\r\ncalc",
  "%COMSPEC%",
  "’; calc",
  "\u0000",
  "Wi-Fi [1]*?",
];

function textOf(argv: readonly string[]): string {
  return Buffer.from(argv.at(-1) ?? "", "base64").toString("utf16le");
}

describe("scriptArgv()", () => {
  test("differs by one Base64 word alone, whatever the parameters hold", () => {
    const plain = textOf(scriptArgv("read-dns", { comment: "higgs0", interface: "higgs0" }));
    for (const name of HOSTILE) {
      const argv = scriptArgv("read-dns", { comment: name, interface: name });
      const strip = (text: string): string => text.replace(/FromBase64String\('[A-Za-z0-9+/=]*'\)/, "");
      expect(strip(textOf(argv))).toBe(strip(plain));
      expect(scriptOf(argv)).toEqual({ script: "read-dns", parameters: { comment: name, interface: name } });
      for (const word of argv) expect(word).toMatch(/^[A-Za-z0-9+/=-]+$/);
    }
  });

  test("brings any text whole", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme" }), (name) => {
        expect(scriptOf(scriptArgv("read-service", { name }))?.parameters).toEqual({ name });
      }),
    );
  });

  test("refuses what no command line of Windows can hold, before anything runs", () => {
    expect(() => scriptArgv("remove-firewall-rules", { names: ["x".repeat(9_000)] })).toThrow(
      "too long for one command line",
    );
  });

  test("has scripts that name no parameter but as a value, and none that another program could complete", () => {
    for (const script of Object.values(WINDOWS_SCRIPTS)) {
      expect(script).not.toMatch(/Invoke-Expression|\biex\b|cmd\.exe|Start-Process|ScriptBlock/i);
      expect(script).toMatch(/^[\x20-\x7e\n]+$/);
    }
  });
});

describe("WINDOWS_SCRIPTS", () => {
  test("take a rule of the firewall away only as the one that was found, as the command alone would take all of them", () => {
    const removals = Object.values(WINDOWS_SCRIPTS).flatMap(
      (script) => script.match(/Remove-NetFirewallRule.*/g) ?? [],
    );
    expect(removals).toHaveLength(2);
    for (const line of removals) expect(line).toBe("Remove-NetFirewallRule -InputObject $rule }");
  });

  test("hide a failure only where something that is not there is no failure", () => {
    const hiding = Object.values(WINDOWS_SCRIPTS).flatMap(
      (script) => script.match(/[\w-]+(?: -\w+ [$\w.]+)* -ErrorAction SilentlyContinue/g) ?? [],
    );
    expect(hiding.map((line) => line.split(" ")[0])).toEqual([
      "Get-DnsClientServerAddress",
      "Get-Service",
      "Get-Process",
    ]);
  });
});

describe("runScript() and askScript()", () => {
  const said = (code: number, stdout: string, stderr = ""): Exec => ({
    run: () => Promise.resolve({ code, stdout, stderr }),
  });

  test("throw what the script's failing command said", async () => {
    const failing = runScript(said(1, "", "Access is denied.\r\n   at line 3\r\n"), "add-dns-rule");
    expect(String(await failureOf(failing))).toContain('Cannot do "add-dns-rule" in PowerShell: Access is denied.');
  });

  test("refuse an answer that is not as expected", async () => {
    for (const answer of ["", "null", "{", '{"state":7}', "Die Datei wurde nicht gefunden."]) {
      const asked = askScript(said(0, answer), "read-service", { schema: z.object({ state: z.string() }) });
      expect(await failureOf(asked)).toMatchObject({ code: "powershell-unreadable" });
    }
  });
});

describe("windowsToolDirs()", () => {
  test("takes the system's folders, and Windows' usual ones where the environment says something odd", () => {
    expect(windowsToolDirs({ SystemRoot: "D:\\WINNT", ProgramFiles: "D:\\Programs (x64)\\" })).toEqual([
      "D:\\WINNT\\System32",
      "D:\\WINNT\\System32\\WindowsPowerShell\\v1.0",
      "D:\\Programs (x64)\\WireGuard",
    ]);
    for (const odd of ["C:\\x;D:\\evil", "\\\\server\\share", "relative", "C:\\a\nb", ""]) {
      expect(windowsToolDirs({ SystemRoot: odd, ProgramFiles: odd })).toEqual([
        "C:\\Windows\\System32",
        "C:\\Windows\\System32\\WindowsPowerShell\\v1.0",
        "C:\\Program Files\\WireGuard",
      ]);
    }
  });

  test("hands no other variable on", () => {
    const names = Object.keys(
      windowsToolEnvironment({ SystemRoot: "C:\\Windows", PATH: "C:\\evil", PSModulePath: "C:\\evil" }),
    );
    expect(names).toEqual(["SystemRoot", "windir", "PATH", "PATHEXT"]);
  });
});

describe("identityFrom()", () => {
  test("tells one boot and one start from another, and nothing from what is no answer", () => {
    const one = identityFrom('{"started":"638999000000000000","booted":"638990000000000000"}', 7);
    expect(one).toEqual({ pid: 7, startTime: "638999000000000000", bootId: "00000000-0000-0000-08de-2604fd06e000" });
    expect(one?.bootId).toMatch(/^[0-9a-f-]{36}$/);
    for (const text of ['{"started":"","booted":"1"}', "", "null", '{"started":"x","booted":"1"}']) {
      expect(identityFrom(text, 7)).toBeNull();
    }
  });
});

describe("argvOf()", () => {
  test("takes quoted words whole", () => {
    expect(argvOf('"C:\\Program Files\\higgs\\higgs.exe" client run --state "C:\\my state"')).toEqual([
      "C:\\Program Files\\higgs\\higgs.exe",
      "client",
      "run",
      "--state",
      "C:\\my state",
    ]);
  });
});
