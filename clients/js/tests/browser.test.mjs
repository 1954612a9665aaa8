// The bundle in Chromium: cross-origin pages, and one connection for all tabs.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { after, before, test } from "node:test";
import { launchChromium, newContext } from "./support/chromium.mjs";
import { range } from "./support/collect.mjs";
import { Gateway } from "./support/gateway.mjs";
import { openTcpProxy } from "./support/tcp_proxy.mjs";
import { waitFor } from "./support/wait.mjs";

const bundle = await readFile(new URL("../dist/client.js", import.meta.url));
let gateway, proxy, pages, browser, context, site;

before(async () => {
  // The pages have a server of their own. The gateway's configuration needs its origin.
  pages = createServer((request, response) => {
    const isScript = request.url === "/client.js";
    response.setHeader("content-type", isScript ? "text/javascript" : "text/html");
    response.end(isScript ? bundle : "<!doctype html><title>test</title>");
  });
  await new Promise((ready) => pages.listen(0, "127.0.0.1", ready));
  site = `http://127.0.0.1:${pages.address().port}`;
  gateway = await Gateway.start({ origins: [site], before: `[[channels]]
match = "user.{sub}"
subscribers = "authenticated"
[[channels]]
match = "user.*"
subscribers = { group = ["none"] }`});
  proxy = await openTcpProxy(gateway.port);
  browser = await launchChromium();
  context = await newContext(browser);
});

after(async () => {
  await browser?.close();
  proxy?.close();
  pages?.close();
  await gateway?.close();
});

/** A tab that is subscribed to a channel. */
async function open(channel, options = {}) {
  const page = await context.newPage();
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

const received = (page) => page.evaluate(() => ({ data, gaps }));

async function publish(channel, from, to) {
  for (let n = from; n <= to; n++) await gateway.publish(channel, n);
}

async function receive(page, count) {
  await waitFor(async () => (await received(page)).data.length >= count, `${count} publications`);
  return received(page);
}

test("disconnects lose nothing", async () => {
  const page = await open("single");
  for (let n = 0; n < 5; n++) {
    await publish("single", n * 10 + 1, n * 10 + 10);
    proxy.disconnectAll();
  }
  assert.deepEqual(await receive(page, 50), { data: range(1, 50), gaps: [] });
  await page.evaluate(() => client.close());
  await page.close();
  await waitFor(() => !proxy.pairs.size, "the end of its connection");
});

for (const transport of ["events", "poll"]) {
  test(`${transport} from an allowed origin`, async () => {
    const page = await open(transport, { transports: [transport], token: await gateway.token() });
    for (let n = 0; n < 3; n++) {
      await publish(transport, n * 10 + 1, n * 10 + 10);
      proxy.disconnectAll();
    }
    assert.deepEqual(await receive(page, 30), { data: range(1, 30), gaps: [] });
    await page.evaluate(() => client.close());
    await page.close();
    await waitFor(() => !proxy.pairs.size, "the end of its connections");
  });
}

test("tabs of two people share nothing", async () => {
  const before = proxy.count;
  const tabs = {};
  for (const name of ["alice", "bob"]) {
    const token = await gateway.token({ subject: name });
    tabs[name] = await open(`user.${name}`, { tabs: true, transports: ["websocket"], token });
  }
  assert.equal(proxy.count - before, 2);
  // A page of bob that asks for the channel of alice, whose leader has it.
  const code = await tabs.bob.evaluate(() => new Promise((done) => {
    client.subscribe("user.alice").on("ended", (error) => done(error.code));
  }));
  assert.equal(code, "forbidden");
  await publish("user.alice", 1, 5);
  assert.deepEqual(await receive(tabs.alice, 5), { data: range(1, 5), gaps: [] });
  assert.deepEqual((await received(tabs.bob)).data, []);
  for (const tab of Object.values(tabs)) await tab.close();
  await waitFor(() => !proxy.pairs.size, "the end of the connections");
});

test("tabs share one connection", async () => {
  const before = proxy.count;
  const options = { tabs: true, transports: ["websocket"] };
  const tabs = [];
  for (let n = 0; n < 3; n++) tabs.push(await open("shared", options));
  assert.equal(proxy.count - before, 1);
  await publish("shared", 1, 10);
  for (const tab of tabs) assert.deepEqual(await receive(tab, 10), { data: range(1, 10), gaps: [] });

  // A tab that is opened later and requests the backlog.
  const late = await context.newPage();
  await late.goto(site);
  const backlog = await late.evaluate(async ([url, options]) => {
    const { connect } = await import("/client.js");
    const numbers = [];
    for await (const { data } of connect(url, options).subscribe("shared", { backlog: 5 })) {
      if (numbers.push(data) === 5) return numbers;
    }
  }, [proxy.url, options]);
  assert.deepEqual(backlog, range(6, 10));
  assert.equal(proxy.count - before, 1);

  const publishing = publish("shared", 11, 60);
  await tabs.shift().close();
  await publishing;
  for (const tab of tabs) assert.deepEqual(await receive(tab, 60), { data: range(1, 60), gaps: [] });
  await waitFor(() => proxy.pairs.size === 1, "one connection");

  // The leader's connection breaks: no tab loses a publication.
  proxy.disconnectAll();
  await publish("shared", 61, 80);
  for (const tab of tabs) assert.deepEqual(await receive(tab, 80), { data: range(1, 80), gaps: [] });

  // A leader that closes its client without leaving the page.
  await tabs[0].evaluate(() => client.close());
  await publish("shared", 81, 90);
  assert.deepEqual(await receive(tabs[1], 90), { data: range(1, 90), gaps: [] });
  for (const tab of [...tabs, late]) await tab.close();
  await waitFor(() => !proxy.pairs.size, "the end of the connection");
});

test("reconnects at once when online again", async () => {
  const page = await open("offline", { timing: { backoffMs: 60_000, backoffMaxMs: 60_000 } });
  await page.evaluate(() => { Math.random = () => 0.9; });
  proxy.disconnectAll();
  await page.waitForFunction(() => client.state === "waiting");
  await publish("offline", 1, 3);
  await page.evaluate(() => dispatchEvent(new Event("online")));
  assert.deepEqual(await receive(page, 3), { data: range(1, 3), gaps: [] });
  await page.close();
});
