// Preloaded by a test: the program believes that it runs on macOS.
Object.defineProperty(process, "platform", { value: "darwin" });
