// Builds `dist/client.js`, the bundle that browsers, programs and the gateway's demo load, and `build/`, the single
// modules for unit tests. `--check` leaves the bundle as it is and fails if it is out of date.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const folder = new URL(".", import.meta.url).pathname;
const options = { absWorkingDir: folder, format: "esm", target: "es2022", logLevel: "warning" };

const file = `${folder}dist/client.js`;
// The map contains the sources. Only the package has it: it would change in git with every edit.
const bundle = await build({
  ...options, entryPoints: ["src/index.ts"], outfile: file, bundle: true, minify: true, sourcemap: "linked", write: false,
});
const [map, { text }] = bundle.outputFiles;
if (process.argv.includes("--check")) {
  if (readFileSync(file, "utf8") !== text) {
    console.error("dist/client.js is out of date, run `npm run build`");
    process.exit(1);
  }
} else {
  mkdirSync(`${folder}dist`, { recursive: true });
  writeFileSync(file, text);
  writeFileSync(`${file}.map`, map.text);
}
const sources = readdirSync(`${folder}src`, { recursive: true }).filter((name) => name.endsWith(".ts"));
await build({ ...options, entryPoints: sources.map((name) => `src/${name}`), outdir: "build" });
