// Starts the `lastmile` binary of `LASTMILE`, or the debug build, and finds the addresses that it listens on.
import { spawn } from "node:child_process";
import { resolve } from "node:path";
import { createInterface } from "node:readline";
import { killOnExit } from "./processes.mjs";

const debugBuild = new URL("../../../../target/debug/lastmile", import.meta.url).pathname;
export const lastmile = resolve(process.env.LASTMILE ?? debugBuild);

// Variables with this prefix are settings: those of the caller's shell must not change the gateway under test.
const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("LASTMILE_")));

export function spawnLastmile(args, options = {}) {
  return killOnExit(spawn(lastmile, args, { env, ...options }));
}

/** Runs `lastmile serve` until it listens. Returns its `process`, the lines of its `log` so far, and the `urls` of its
 * listeners by name. */
export async function serve(config, listeners, options = {}) {
  const child = spawnLastmile(["serve", "--config", config], { ...options, stdio: ["ignore", "ignore", "pipe"] });
  const log = [];
  const urls = await listenerUrls(child, listeners, log);
  return { process: child, log, urls };
}

/** Address discovery: reads the `listening` lines of the log, which is collected in `log`. */
function listenerUrls(child, listeners, log) {
  const urls = {};
  return new Promise((ready, failed) => {
    child.once("error", failed);
    child.once("close", () => failed(new Error(`the gateway exited: ${log.join("\n")}`)));
    createInterface({ input: child.stderr }).on("line", (line) => {
      log.push(line);
      if (!line.includes("listening")) return;
      urls[field(line, "listener")] = `http://${field(line, "address")}`;
      if (listeners.every((name) => urls[name])) ready(urls);
    });
  });
}

function field(line, name) {
  return line.match(new RegExp(`"?${name}"?[:=]"?([^",}\\s]+)`))?.[1];
}
