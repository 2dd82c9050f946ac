// Prints the file table of ARCHITECTURE.md from the first lines of src/, or with --write puts it between the document's marks.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { rowsOf, sentenceOf } from "../test/arch/file-table.ts";
import { filesIn } from "../test/arch/source.ts";
import { projectDir } from "./project.ts";

const documentPath = join(projectDir, "ARCHITECTURE.md");
const marks = { begin: "<!-- files: begin -->", end: "<!-- files: end -->" } as const;
const write = process.argv.includes("--write");

const document = write ? readFileSync(documentPath, "utf8") : "";
const known = new Map(rowsOf(document).map(({ path, sentence }) => [path, sentence]));
const rows = filesIn("src").map((path) => {
  const [firstLine] = readFileSync(join(projectDir, path), "utf8").split("\n");
  // What is no TypeScript has its sentence in the document alone.
  const sentence = sentenceOf(firstLine)?.replaceAll("|", "\\|") ?? known.get(path) ?? "";
  return `| \`${path}\` | ${sentence} |`;
});
const table = ["| file | purpose |", "|---|---|", ...rows].join("\n");

if (write) {
  const [begin, end] = [document.indexOf(marks.begin), document.indexOf(marks.end)];
  if (begin < 0 || end < begin) {
    console.error(`Cannot write the table: ARCHITECTURE.md lacks "${marks.begin}" … "${marks.end}"`);
    process.exit(1);
  }
  writeFileSync(documentPath, `${document.slice(0, begin + marks.begin.length)}\n${table}\n${document.slice(end)}`);
} else {
  console.log(table);
}
