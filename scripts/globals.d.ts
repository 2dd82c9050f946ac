// Declares what the build, or the preload, puts in place of a name.

/** The version in package.json. */
declare const HIGGS_VERSION: string;
