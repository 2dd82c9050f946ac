// The program's version, put in by the build.
declare const HIGGS_VERSION: string;

export const VERSION: string = typeof HIGGS_VERSION === "string" ? HIGGS_VERSION : "0.0.0";
export const PLATFORM: string = `${process.platform}-${process.arch}`;
