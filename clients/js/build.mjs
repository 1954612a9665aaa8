// Builds the one file that browsers and programs load, and each module alone for the tests.
import { readdirSync } from "node:fs";
import { build } from "esbuild";

const folder = new URL(".", import.meta.url).pathname;
const shared = { absWorkingDir: folder, format: "esm", target: "es2022", logLevel: "warning" };

await build({ ...shared, entryPoints: ["src/index.ts"], bundle: true, minify: true, outfile: process.argv[2] ?? "dist/client.js" });
const sources = readdirSync(`${folder}src`, { recursive: true }).filter((name) => name.endsWith(".ts"));
await build({ ...shared, entryPoints: sources.map((name) => `src/${name}`), outdir: "build" });
