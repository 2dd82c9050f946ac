// Preloaded by a test: the program believes that it runs on Windows.
Object.defineProperty(process, "platform", { value: "win32" });
