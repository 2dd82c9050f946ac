// The file table of ARCHITECTURE.md: one row for each file of src/, with the sentence on its first line.

/** `| \`src/base/ip.ts\` | IP addresses. |`, in any table of the document. */
const row = /^\|\s*`(src\/[^`]+)`\s*\|\s*(.*?)\s*\|\s*$/;

export interface Row {
  readonly path: string;
  readonly sentence: string;
}

export function rowsOf(markdown: string): Row[] {
  return markdown.split("\n").flatMap((line) => {
    const [, path, sentence] = row.exec(line) ?? [];
    return path === undefined || sentence === undefined ? [] : [{ path, sentence }];
  });
}

/** The sentence of line 1, or `undefined` if it isn't a comment that is one sentence. */
export function sentenceOf(firstLine: string | undefined): string | undefined {
  return /^\/\/ (\S.*\.)$/.exec(firstLine ?? "")?.[1];
}

/** What keeps the table and the files from being the same; `files` maps each path to its first line. */
export function tableBreaches(rows: readonly Row[], files: ReadonlyMap<string, string | undefined>): string[] {
  const breaches: string[] = [];
  const seen = new Set<string>();
  for (const { path, sentence } of rows) {
    if (seen.has(path)) breaches.push(`ARCHITECTURE.md lists ${path} twice`);
    seen.add(path);
    if (!files.has(path)) breaches.push(`ARCHITECTURE.md lists ${path}: there is no such file`);
    // A page or a style sheet has no such line; its row is enough.
    if (!path.endsWith(".ts") || !files.has(path)) continue;
    const own = sentenceOf(files.get(path));
    // A vertical bar within a row is written with a backslash.
    if (own !== undefined && own !== sentence.replaceAll("\\|", "|")) {
      breaches.push(`ARCHITECTURE.md says of ${path} "${sentence}", the file says "${own}"`);
    }
  }
  for (const [path, firstLine] of files) {
    if (!seen.has(path)) breaches.push(`ARCHITECTURE.md lacks ${path}`);
    if (path.endsWith(".ts") && sentenceOf(firstLine) === undefined) {
      breaches.push(`${path} does not begin with one sentence as a comment`);
    }
  }
  return breaches;
}
