// `lastmile demo` in a real browser: what the tests of its page have in common.
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";
import { endsWithTests } from "../../clients/js/tests/support/processes.mjs";

export const lastmile = process.env.LASTMILE ?? "target/debug/lastmile";
/** Of one test, and of one thing that it waits for: a cold browser on a slow and busy machine has time enough. */
export const patience = 300_000, patienceOfOne = 90_000;

const args = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
  // Without a resolver for its made-up names a page's own addresses lead nowhere.
  "--disable-features=WebRtcHideLocalIpsWithMdns",
];

export function launch() {
  const executablePath = process.env.CHROMIUM || "/usr/bin/chromium";
  return chromium.launch({ executablePath, headless: true, args, timeout: 180_000 });
}

// Starts a demonstration and a browser; `complaints` collects what the browser's console has against the pages.
export async function openDemo(more = []) {
  const process = endsWithTests(spawn(lastmile, ["demo", "--port", "0", ...more], { stdio: ["ignore", "pipe", "inherit"] }));
  let url, publish;
  for await (const line of createInterface({ input: process.stdout })) {
    url ??= line.match(/http:\S+\/demo$/)?.[0];
    publish ??= line.match(/publish demo\.ticker .* --url (?<url>\S+) --key (?<key>\S+)/)?.groups;
    if (url && publish) break;
  }
  // The pipe must stay empty, or the demonstration would wait for its reader.
  process.stdout.resume();
  const browser = await launch();
  const context = await browser.newContext();
  context.setDefaultTimeout(patienceOfOne);
  const complaints = [];
  return {
    url, publish, complaints,
    async newPage() {
      const page = await context.newPage();
      page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
      page.on("pageerror", (error) => complaints.push(String(error)));
      return page;
    },
    async close() {
      await browser.close();
      if (process.exitCode !== null || process.signalCode) return;
      process.kill("SIGINT");
      await new Promise((ended) => process.once("exit", ended));
    },
  };
}
