// Measures the table of docs/recovery.md for the gateway and for nchan, and fails if the document differs. `--write`
// updates the document. `--only WORDS` runs and prints the rows whose names have these words.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { killOnExit, freePort } from "../../clients/js/tests/support/processes.mjs";
import { startLastmile } from "./recovery/lastmile.mjs";
import { startNchan } from "./recovery/nchan.mjs";
import { rows } from "./recovery/rows.mjs";
import { range } from "./support.mjs";

const DOCUMENT = new URL("../../docs/recovery.md", import.meta.url);
/** Rows measured at the same time. They mostly wait. */
const MAX_CONCURRENT_ROWS = 4;

const servers = {
  lastmile: { start: startLastmile, durable: "disk", shared: await sharedStorage() },
  nchan: { start: startNchan, durable: "redis", shared: "redis" },
};

async function measure(row, { start, ...storage }) {
  const running = [];
  let redis;
  const startOne = async (options) => {
    if (options?.storage === "redis") redis ??= await startRedis();
    const server = await start({ redis: redis?.url, ...options });
    running.push(server);
    return server;
  };
  try {
    return await row.run(startOne, storage);
  } catch (error) {
    return `failed: ${error.stack}`;
  } finally {
    for (const server of running) await server.close();
    await redis?.close();
  }
}

/** The storage that nodes of this version of the gateway share, if any. */
async function sharedStorage() {
  const redis = await startRedis();
  const server = await startLastmile({ storage: "redis", redis: redis.url }).catch(() => undefined);
  await server?.close();
  await redis.close();
  return server && "redis";
}

/** A Redis for one row. */
async function startRedis() {
  const folder = await mkdtemp(join(tmpdir(), "lastmile-redis-"));
  const port = await freePort();
  const options = ["--port", port, "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"];
  const child = killOnExit(spawn("redis-server", options, { stdio: ["ignore", "pipe", "inherit"] }));
  for await (const line of child.stdout) if (String(line).includes("Ready to accept")) break;
  return {
    url: `redis://127.0.0.1:${port}`,
    async close() {
      child.kill("SIGKILL");
      await once(child, "exit");
      await rm(folder, { recursive: true, force: true });
    },
  };
}

const only = process.argv.includes("--only") ? process.argv.at(-1) : "";
const selected = rows.filter(({ name }) => name.includes(only));
const measured = new Map();
const remaining = [...selected];
await Promise.all(range(1, MAX_CONCURRENT_ROWS).map(async () => {
  for (let row = remaining.shift(); row; row = remaining.shift()) {
    const cells = await Promise.all(Object.values(servers).map((server) => measure(row, server)));
    measured.set(row, `| ${row.name} | ${cells.join(" | ")} |`);
    console.log(measured.get(row));
  }
}));
const header = ["| what happens | lastmile | nchan 1.3.6 |", "|---|---|---|"];
const lines = [...header, ...selected.map((row) => measured.get(row))];
const table = `${lines.join("\n")}\n`;
const document = await readFile(DOCUMENT, "utf8").catch(() => "");
const before = /\| what happens[^]*?\n(?=\n|$)/.exec(document)?.[0];
if (process.argv.includes("--write")) {
  await writeFile(DOCUMENT, document.replace(before, () => table));
} else if (!only && table !== before) {
  console.error("docs/recovery.md differs, run: node tests/proxies/recovery.mjs --write");
  process.exitCode = 1;
}
