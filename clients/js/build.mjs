// Builds `dist/client.js`, the one file that browsers, programs and the gateway's demonstration load, and each module
// alone for the tests. `--check` writes nothing but the modules and fails if `dist/client.js` is not what it would be.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const folder = new URL(".", import.meta.url).pathname;
const shared = { absWorkingDir: folder, format: "esm", target: "es2022", logLevel: "warning" };

const bundle = await build({ ...shared, entryPoints: ["src/index.ts"], bundle: true, minify: true, write: false });
const { text } = bundle.outputFiles[0];
const file = `${folder}dist/client.js`;
if (process.argv.includes("--check")) {
  if (readFileSync(file, "utf8") !== text) {
    console.error("dist/client.js is not what its source makes: npm run build");
    process.exit(1);
  }
} else {
  mkdirSync(`${folder}dist`, { recursive: true });
  writeFileSync(file, text);
}
const sources = readdirSync(`${folder}src`, { recursive: true }).filter((name) => name.endsWith(".ts"));
await build({ ...shared, entryPoints: sources.map((name) => `src/${name}`), outdir: "build" });
