// The page of `lastmile demo` in a real browser: it shows ticks as they come, and what publishers write is only text.
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { chromium } from "playwright-core";

const lastmile = process.env.LASTMILE ?? "target/debug/lastmile";
const executablePath = process.env.CHROMIUM || "/usr/bin/chromium";
const args = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];
const patience = 60_000;

let demo, profile, browser, page, url, publish;
const complaints = [];

before(async () => {
  demo = spawn(lastmile, ["demo", "--port", "0"], { stdio: ["ignore", "pipe", "inherit"] });
  for await (const line of createInterface({ input: demo.stdout })) {
    url ??= line.match(/http:\S+\/demo$/)?.[0];
    publish ??= line.match(/publish demo\.ticker .* --url (?<url>\S+) --key (?<key>\S+)/)?.groups;
    if (url && publish) break;
  }
  // The pipe must stay empty, or the demonstration would wait for its reader.
  demo.stdout.resume();
  profile = await mkdtemp(join(tmpdir(), "lastmile-browser-"));
  browser = await chromium.launchPersistentContext(profile, { executablePath, headless: true, args });
  page = await browser.newPage();
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.goto(url);
});

after(async () => {
  await browser?.close();
  if (demo && demo.exitCode === null) {
    demo.kill("SIGINT");
    await new Promise((ended) => demo.once("exit", ended));
  }
  if (profile) await rm(profile, { recursive: true, force: true });
});

const newest = () => page.locator("#messages tr").first().innerText();
const tick = async () => Number((await newest()).match(/"tick":(\d+)/)?.[1]);

test("the page is live and shows ticks as they come", { timeout: patience }, async () => {
  await page.waitForFunction(() => document.getElementById("state").textContent === "live");
  await page.locator("#messages tr").first().waitFor();
  const first = await tick();
  await page.waitForFunction(
    (seen) => Number(document.querySelector("#messages tr")?.innerText.match(/"tick":(\d+)/)?.[1]) >= seen + 2,
    first,
  );
  const offsets = await page.locator("#messages tr td:first-child").allInnerTexts();
  assert.deepEqual(offsets.map(Number), offsets.map((_, index) => Number(offsets[0]) - index));
});

test("markup that a publisher writes stays text", { timeout: patience }, async () => {
  const markup = "<img src=x onerror=\"document.title='taken'\">";
  const command = ["publish", "demo.ticker", "--text", markup, "--quiet", "--url", publish.url, "--key", publish.key];
  await promisify(execFile)(lastmile, command);
  await page.getByText(markup).first().waitFor();
  assert.equal(await page.locator("#messages img").count(), 0);
  assert.equal(await page.title(), "lastmile demo");
});

test("the browser has nothing to complain about, the content security policy included", () => {
  assert.deepEqual(complaints, []);
});
