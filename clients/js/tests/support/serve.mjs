// Starts the `lastmile` binary of `LASTMILE`, or the debug build, and reads the URLs of its listeners.
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout } from "node:timers/promises";
import { killOnExit } from "./processes.mjs";

const READY_TIMEOUT_MS = 60_000;
const READY_POLL_MS = 20;

const debugBuild = new URL("../../../../target/debug/lastmile", import.meta.url).pathname;
export const lastmile = resolve(process.env.LASTMILE ?? debugBuild);

// Variables with this prefix are settings: those of the caller's shell must not change the gateway under test.
const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("LASTMILE_")));

export function spawnLastmile(args, options = {}) {
  return killOnExit(spawn(lastmile, args, { env, ...options }));
}

/** Runs `lastmile serve` until it is ready. Returns its `process`, the lines of its `log` so far, and the `urls` of its
 * listeners by name. */
export async function serve(config, options = {}) {
  const readyFile = `${resolve(options.cwd ?? ".", config)}.${randomUUID()}.json`;
  const args = ["serve", "--config", config, "--ready-file", readyFile];
  const child = spawnLastmile(args, { ...options, stdio: ["ignore", "ignore", "pipe"] });
  const log = [];
  createInterface({ input: child.stderr }).on("line", (line) => log.push(line));
  const closed = new Promise((_, failed) => {
    child.once("error", failed);
    child.once("close", () => failed(new Error(`the gateway exited: ${log.join("\n")}`)));
  });
  closed.catch(() => {}); // a later exit is no error
  return { process: child, log, urls: await Promise.race([listenerUrls(readyFile), closed]) };
}

/** Waits for the file, which appears complete. */
async function listenerUrls(readyFile) {
  const deadline = Date.now() + READY_TIMEOUT_MS;
  while (Date.now() < deadline) {
    const text = await readFile(readyFile, "utf8").catch(() => undefined);
    if (text) return JSON.parse(text);
    await setTimeout(READY_POLL_MS);
  }
  throw new Error(`${readyFile} does not exist after ${READY_TIMEOUT_MS} ms`);
}
