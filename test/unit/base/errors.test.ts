import { describe, expect, test } from "bun:test";
import { errorText, HiggsError } from "../../../src/base/errors.ts";

class ProbeError extends HiggsError {
  override readonly name = "ProbeError";
}

describe("HiggsError", () => {
  test("HiggsError keeps text, code, remedy, detail and cause apart", () => {
    const cause = new Error("below");
    const error = new ProbeError("Cannot probe: it is dark.", {
      code: "dark",
      remedy: "Light.",
      detail: { lux: 0 },
      cause,
    });
    expect(error).toBeInstanceOf(Error);
    expect([error.name, error.message, error.code, error.remedy]).toEqual([
      "ProbeError",
      "Cannot probe: it is dark.",
      "dark",
      "Light.",
    ]);
    expect(error.detail).toEqual({ lux: 0 });
    expect(error.cause).toBe(cause);
  });

  test("HiggsError without remedy, detail and cause has none", () => {
    const error = new ProbeError("Cannot probe.", { code: "dark" });
    expect(error.remedy).toBeUndefined();
    expect(error.detail).toEqual({});
    expect("cause" in error).toBe(false);
  });
});

describe("errorText()", () => {
  test("errorText() gives the message of an error and a thrown text as it is", () => {
    expect(errorText(new ProbeError("Cannot probe.", { code: "dark" }))).toBe("Cannot probe.");
    expect(errorText("plain")).toBe("plain");
    expect(errorText({ code: 5 })).toBe('{"code":5}');
  });

  test("errorText() gives a text for whatever was thrown, and never throws itself", () => {
    const cycle: Record<string, unknown> = {};
    cycle["self"] = cycle;
    const thrown: unknown[] = [
      undefined,
      null,
      7,
      7n,
      true,
      Symbol("s"),
      () => 1,
      cycle,
      Object.create(null),
      { n: 1n },
    ];
    for (const value of thrown) expect(typeof errorText(value)).toBe("string");
    expect(errorText(undefined)).toBe("undefined");
  });
});
