// `lastmile demo` in Chromium.
import { createInterface } from "node:readline";
import { launchChromium, newContext } from "../../clients/js/tests/support/chromium.mjs";
import { stopProcess } from "../../clients/js/tests/support/processes.mjs";
import { spawnLastmile } from "../../clients/js/tests/support/serve.mjs";

/** Long enough for a cold browser on a slow and busy machine. */
export const TEST_TIMEOUT_MS = 300_000;

/** Starts a demo and a browser. `consoleErrors` collects the errors of all pages. */
export async function openDemo(args = []) {
  const process = spawnLastmile(["demo", "--port", "0", ...args], { stdio: ["ignore", "pipe", "inherit"] });
  const { url, publishing } = await readAddresses(process);
  const browser = await launchChromium().catch((error) => {
    process.kill("SIGKILL");
    throw error;
  });
  const context = await newContext(browser);
  const consoleErrors = [];
  return {
    url, publishing, consoleErrors,
    async newPage() {
      const page = await context.newPage();
      page.on("console", (message) => message.type() === "error" && consoleErrors.push(message.text()));
      page.on("pageerror", (error) => consoleErrors.push(String(error)));
      return page;
    },
    async close() {
      await browser.close();
      await stopProcess(process, "SIGINT");
    },
  };
}

/** Reads the page's URL and the publisher's URL and key from the demo's output. */
async function readAddresses(process) {
  let url, publishing;
  for await (const line of createInterface({ input: process.stdout })) {
    url ??= line.match(/http:\S+\/demo$/)?.[0];
    publishing ??= line.match(/publish demo\.ticker .* --url (?<url>\S+) --key (?<key>\S+)/)?.groups;
    if (url && publishing) break;
  }
  // A full pipe would block the demo.
  process.stdout.resume();
  return { url, publishing };
}
