// The page of `lastmile demo`: live ticks, and publications shown as text.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { lastmile } from "../../clients/js/tests/support/serve.mjs";
import { openDemo, TEST_TIMEOUT_MS } from "./support.mjs";

let demo, page;

before(async () => {
  demo = await openDemo();
  page = await demo.newPage();
  await page.goto(demo.url);
});

after(() => demo?.close());

const newestRow = () => page.locator("#messages tr").first();
const newestTick = async () => Number((await newestRow().innerText()).match(/"tick":(\d+)/)?.[1]);

test("the page shows live ticks", { timeout: TEST_TIMEOUT_MS }, async () => {
  await page.waitForFunction(() => document.getElementById("state").textContent === "live");
  await newestRow().waitFor();
  const first = await newestTick();
  await page.waitForFunction(
    (first) => Number(document.querySelector("#messages tr")?.innerText.match(/"tick":(\d+)/)?.[1]) >= first + 2,
    first,
  );
  const offsets = await page.locator("#messages tr td:first-child").allInnerTexts();
  assert.deepEqual(offsets.map(Number), offsets.map((_, index) => Number(offsets[0]) - index));
});

test("published markup is escaped", { timeout: TEST_TIMEOUT_MS }, async () => {
  const markup = "<img src=x onerror=\"document.title='injected'\">";
  const { url, key } = demo.publishing;
  const args = ["publish", "demo.ticker", "--text", markup, "--quiet", "--url", url, "--key", key];
  await promisify(execFile)(lastmile, args);
  await page.getByText(markup).first().waitFor();
  assert.equal(await page.locator("#messages img").count(), 0);
  assert.equal(await page.title(), "lastmile demo");
});

test("no console or CSP errors", () => {
  assert.deepEqual(demo.consoleErrors, []);
});
