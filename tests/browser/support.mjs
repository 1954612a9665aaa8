// `lastmile demo` in a real browser: what the tests of its page have in common.
import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

export const lastmile = process.env.LASTMILE ?? "target/debug/lastmile";
export const patience = 60_000;

export const executablePath = process.env.CHROMIUM || "/usr/bin/chromium";
export const args = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
  // Without a resolver for its made-up names a page's own addresses lead nowhere.
  "--disable-features=WebRtcHideLocalIpsWithMdns",
];

// Starts a demonstration and a browser; `complaints` collects what the browser's console has against the pages.
export async function openDemo(more = []) {
  const process = spawn(lastmile, ["demo", "--port", "0", ...more], { stdio: ["ignore", "pipe", "inherit"] });
  let url, publish;
  for await (const line of createInterface({ input: process.stdout })) {
    url ??= line.match(/http:\S+\/demo$/)?.[0];
    publish ??= line.match(/publish demo\.ticker .* --url (?<url>\S+) --key (?<key>\S+)/)?.groups;
    if (url && publish) break;
  }
  // The pipe must stay empty, or the demonstration would wait for its reader.
  process.stdout.resume();
  const profile = await mkdtemp(join(tmpdir(), "lastmile-browser-"));
  const browser = await chromium.launchPersistentContext(profile, { executablePath, headless: true, args });
  const complaints = [];
  return {
    url, publish, complaints,
    async newPage() {
      const page = await browser.newPage();
      page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
      page.on("pageerror", (error) => complaints.push(String(error)));
      return page;
    },
    async close() {
      await browser.close();
      if (process.exitCode === null) {
        process.kill("SIGINT");
        await new Promise((ended) => process.once("exit", ended));
      }
      await rm(profile, { recursive: true, force: true });
    },
  };
}
