// The page of `lastmile demo` in a real browser: it shows ticks as they come, and what publishers write is only text.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { lastmile, openDemo, patience } from "./support.mjs";

let demo, page;

before(async () => {
  demo = await openDemo();
  page = await demo.newPage();
  await page.goto(demo.url);
});

after(() => demo?.close());

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
  const command = ["publish", "demo.ticker", "--text", markup, "--quiet", "--url", demo.publish.url, "--key", demo.publish.key];
  await promisify(execFile)(lastmile, command);
  await page.getByText(markup).first().waitFor();
  assert.equal(await page.locator("#messages img").count(), 0);
  assert.equal(await page.title(), "lastmile demo");
});

test("the browser has nothing to complain about, the content security policy included", () => {
  assert.deepEqual(demo.complaints, []);
});
