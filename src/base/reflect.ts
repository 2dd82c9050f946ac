// Loads reflect-metadata: to be imported before @peculiar/x509, which needs it before its own first line.
//
// A module of its own, as the bundler runs the ES modules that a lazily imported one names before the CommonJS ones,
// whatever their order; reflect-metadata is CommonJS, and named directly it would come too late.
import "reflect-metadata";
