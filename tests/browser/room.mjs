// Rooms on the page of `lastmile demo`: two pages connect by WebRTC.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { openDemo, TEST_TIMEOUT_MS } from "./support.mjs";

let demo;

before(async () => {
  demo = await openDemo(["--geoip", "tests/vectors/geo/test-city.mmdb"]);
});

after(() => demo?.close());

/** A page that has opened a room, and the link that another page joins by. */
async function openRoomPage() {
  const page = await demo.newPage();
  await page.goto(demo.url);
  await page.getByRole("button", { name: "Open a room" }).click();
  await page.getByText("waiting for the other tab").waitFor();
  return { page, link: await page.locator("#link").evaluate((link) => link.href) };
}

test("two pages open a data channel", { timeout: TEST_TIMEOUT_MS }, async () => {
  const { page: first, link } = await openRoomPage();
  const second = await demo.newPage();
  await second.goto(link);
  for (const page of [first, second]) {
    await page.getByText("connected to the other tab").waitFor();
    await page.waitForFunction(() => document.getElementById("peer-message").textContent.startsWith("hello, it is"));
    assert.equal(await page.locator("#place").textContent(), "Loopback, This machine — 127.0.0.1");
  }
  assert.ok(!second.url().includes("secret"), "the secret is removed from the address bar");
  assert.deepEqual(demo.consoleErrors, []);
});

test("a third page is refused", { timeout: TEST_TIMEOUT_MS }, async () => {
  const { link } = await openRoomPage();
  const second = await demo.newPage();
  await second.goto(link);
  await second.getByText("connected to the other tab").waitFor();
  const third = await demo.newPage();
  await third.goto(link);
  await third.getByText("connection_limit").waitFor();
});
