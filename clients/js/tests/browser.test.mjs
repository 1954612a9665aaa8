// The bundle in a real browser: one connection for all tabs, and a leader that leaves.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { after, before, test } from "node:test";
import { openBrowser } from "./support/chromium.mjs";
import { Gateway } from "./support/gateway.mjs";
import { Proxy } from "./support/proxy.mjs";
import { until } from "./support/wait.mjs";

const bundle = await readFile(new URL("../dist/client.js", import.meta.url));
let gateway, proxy, pages, browser, site;

before(async () => {
  // The page comes from a server of its own, whose origin the gateway must know before it starts.
  pages = createServer((request, response) => {
    const isScript = request.url === "/client.js";
    response.setHeader("content-type", isScript ? "text/javascript" : "text/html");
    response.end(isScript ? bundle : "<!doctype html><title>test</title>");
  });
  await new Promise((ready) => pages.listen(0, "127.0.0.1", ready));
  site = `http://127.0.0.1:${pages.address().port}`;
  gateway = await Gateway.start({ origins: [site] });
  proxy = await Proxy.start(gateway.port);
  browser = await openBrowser();
});

after(async () => {
  await browser?.close();
  proxy?.close();
  pages?.close();
  await gateway?.close();
});

/** A tab that listens to a channel. */
async function open(channel, options = {}) {
  const page = await browser.newPage();
  await page.goto(site);
  await page.evaluate(async ([url, channel, options]) => {
    const { connect } = await import("/client.js");
    const timing = { backoffMs: 20, backoffMaxMs: 200 };
    Object.assign(window, { data: [], gaps: [], client: connect(url, { timing, ...options }) });
    const subscription = client.subscribe(channel);
    subscription.on("message", (publication) => data.push(publication.data));
    subscription.on("gap", (gap) => gaps.push(gap));
    await new Promise((done) => subscription.on("subscribed", done));
  }, [proxy.url, channel, options]);
  return page;
}

const got = (page) => page.evaluate(() => ({ data, gaps }));
const range = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => from + index);

async function publish(channel, from, to) {
  for (let n = from; n <= to; n++) await gateway.publish(channel, n);
}

async function has(page, count) {
  await until(async () => (await got(page)).data.length >= count, `${count} publications`);
  return got(page);
}

test("a page gets what is published, over a connection that is cut", async () => {
  const page = await open("single");
  for (let n = 0; n < 5; n++) {
    await publish("single", n * 10 + 1, n * 10 + 10);
    proxy.cut();
  }
  assert.deepEqual(await has(page, 50), { data: range(1, 50), gaps: [] });
  await page.evaluate(() => client.close());
  await page.close();
  await until(() => !proxy.pairs.size, "the end of its connection");
});

for (const transport of ["events", "poll"]) {
  test(`a page of another origin that the gateway knows gets all over ${transport} as well`, async () => {
    const page = await open(transport, { transports: [transport], token: await gateway.token() });
    for (let n = 0; n < 3; n++) {
      await publish(transport, n * 10 + 1, n * 10 + 10);
      proxy.cut();
    }
    assert.deepEqual(await has(page, 30), { data: range(1, 30), gaps: [] });
    await page.evaluate(() => client.close());
    await page.close();
    await until(() => !proxy.pairs.size, "the end of its connections");
  });
}

test("tabs share one connection, and another takes over when the leader is closed", async () => {
  const before = proxy.count;
  const options = { tabs: true, transports: ["websocket"] };
  const tabs = [];
  for (let n = 0; n < 3; n++) tabs.push(await open("shared", options));
  assert.equal(proxy.count - before, 1);
  await publish("shared", 1, 10);
  for (const tab of tabs) assert.deepEqual(await has(tab, 10), { data: range(1, 10), gaps: [] });

  // A tab that comes late and wants what was there before.
  const late = await browser.newPage();
  await late.goto(site);
  const backlog = await late.evaluate(async ([url, options]) => {
    const { connect } = await import("/client.js");
    const got = [];
    for await (const { data } of connect(url, options).subscribe("shared", { backlog: 5 })) if (got.push(data) === 5) return got;
  }, [proxy.url, options]);
  assert.deepEqual(backlog, range(6, 10));
  assert.equal(proxy.count - before, 1);

  const publishing = publish("shared", 11, 60);
  await tabs.shift().close();
  await publishing;
  for (const tab of tabs) assert.deepEqual(await has(tab, 60), { data: range(1, 60), gaps: [] });
  await until(() => proxy.pairs.size === 1, "one connection");

  // The leader's connection is cut: nobody misses anything.
  proxy.cut();
  await publish("shared", 61, 80);
  for (const tab of tabs) assert.deepEqual(await has(tab, 80), { data: range(1, 80), gaps: [] });

  // A leader that closes its client without leaving the page.
  await tabs[0].evaluate(() => client.close());
  await publish("shared", 81, 90);
  assert.deepEqual(await has(tabs[1], 90), { data: range(1, 90), gaps: [] });
  for (const tab of [...tabs, late]) await tab.close();
  await until(() => !proxy.pairs.size, "the end of the connection");
});

test("a page that is offline connects at once when it is online again", async () => {
  const page = await open("offline", { timing: { backoffMs: 60_000, backoffMaxMs: 60_000 } });
  await page.evaluate(() => { Math.random = () => 0.9; });
  proxy.cut();
  await page.waitForFunction(() => client.state === "waiting");
  await publish("offline", 1, 3);
  await page.evaluate(() => dispatchEvent(new Event("online")));
  assert.deepEqual(await has(page, 3), { data: range(1, 3), gaps: [] });
  await page.close();
});
