// Measures the table of docs/recovery.md, for this gateway and for nginx's pub/sub module: fails if the document says
// something else. `--write` writes it there; `--only WORDS` runs the rows with these words and prints them.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { endsWithTests, freePort } from "../../clients/js/tests/support/processes.mjs";
import { startLastmile } from "./recovery/lastmile.mjs";
import { startNchan } from "./recovery/nchan.mjs";
import { rows } from "./recovery/rows.mjs";
import { range } from "./support.mjs";

const DOCUMENT = new URL("../../docs/recovery.md", import.meta.url);
/** Rows that are measured at the same time: most of it is waiting. */
const AT_ONCE = 4;

const servers = {
  lastmile: { start: startLastmile, durable: "disk", shared: await sharedStorage() },
  nchan: { start: startNchan, durable: "redis", shared: "redis" },
};

async function measure(row, { start, ...storage }) {
  const started = [];
  let redis;
  const startOne = async (options) => {
    if (options?.storage === "redis") redis ??= await startRedis();
    const server = await start({ redis: redis?.url, ...options });
    started.push(server);
    return server;
  };
  try {
    return await row.run(startOne, storage);
  } catch (error) {
    return `failed: ${error.stack}`;
  } finally {
    for (const server of started) await server.close();
    await redis?.close();
  }
}

/** Whether this version of the gateway has an engine that nodes share. */
async function sharedStorage() {
  const redis = await startRedis();
  const server = await startLastmile({ storage: "redis", redis: redis.url }).catch(() => undefined);
  await server?.close();
  await redis.close();
  return server && "redis";
}

/** A store of its own for each row. */
async function startRedis() {
  const folder = await mkdtemp(join(tmpdir(), "lastmile-redis-"));
  const port = await freePort();
  const options = ["--port", port, "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"];
  const child = endsWithTests(spawn("redis-server", options, { stdio: ["ignore", "pipe", "inherit"] }));
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
const asked = rows.filter(({ name }) => name.includes(only));
const measured = new Map();
const left = [...asked];
await Promise.all(range(1, AT_ONCE).map(async () => {
  for (let row = left.shift(); row; row = left.shift()) {
    const cells = await Promise.all(Object.values(servers).map((server) => measure(row, server)));
    measured.set(row, `| ${row.name} | ${cells.join(" | ")} |`);
    console.log(measured.get(row));
  }
}));
const lines = ["| what happens | lastmile | nchan 1.3.6 |", "|---|---|---|", ...asked.map((row) => measured.get(row))];
const table = `${lines.join("\n")}\n`;
const document = await readFile(DOCUMENT, "utf8").catch(() => "");
const before = /\| what happens[^]*?\n(?=\n|$)/.exec(document)?.[0];
if (process.argv.includes("--write")) {
  await writeFile(DOCUMENT, document.replace(before, () => table));
} else if (!only && table !== before) {
  console.error("docs/recovery.md says something else: node tests/proxies/recovery.mjs --write");
  process.exitCode = 1;
}
