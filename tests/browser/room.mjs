// Two pages of `lastmile demo` meet in a room, connect by WebRTC, and each shows what the other said and where it is.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { openDemo, patience } from "./support.mjs";

let demo;

before(async () => {
  demo = await openDemo(["--geoip", "tests/vectors/geo/test-city.mmdb"]);
});

after(() => demo?.close());

test("two pages open a data channel through a room and show each other's place", { timeout: patience }, async () => {
  const first = await demo.newPage();
  await first.goto(demo.url);
  await first.getByRole("button", { name: "Open a room" }).click();
  await first.getByText("waiting for the other tab").waitFor();
  const second = await demo.newPage();
  await second.goto(await first.locator("#link").evaluate((link) => link.href));
  for (const page of [first, second]) {
    await page.getByText("connected to the other tab").waitFor();
    await page.waitForFunction(() => document.getElementById("heard").textContent.startsWith("hello, it is"));
    assert.equal(await page.locator("#place").textContent(), "Loopback, This machine — 127.0.0.1");
  }
  assert.ok(!second.url().includes("secret"), "the secret does not stay in the address bar");
  assert.deepEqual(demo.complaints, []);
});

test("a third page is not let in", { timeout: patience }, async () => {
  const first = await demo.newPage();
  await first.goto(demo.url);
  await first.getByRole("button", { name: "Open a room" }).click();
  await first.getByText("waiting for the other tab").waitFor();
  const link = await first.locator("#link").evaluate((link) => link.href);
  const second = await demo.newPage();
  await second.goto(link);
  await second.getByText("connected to the other tab").waitFor();
  const third = await demo.newPage();
  await third.goto(link);
  await third.getByText("connection_limit").waitFor();
});
