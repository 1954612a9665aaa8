// Recording clients in Node and in Chromium, and numbered publications.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { connect } from "../../clients/js/dist/client.js";
import { launchChromium, newContext } from "../../clients/js/tests/support/chromium.mjs";
import { range } from "../../clients/js/tests/support/collect.mjs";
import { record } from "./recording_client.mjs";

export { range } from "../../clients/js/tests/support/collect.mjs";
export { Gateway } from "../../clients/js/tests/support/gateway.mjs";
export { sleep, waitFor } from "../../clients/js/tests/support/wait.mjs";

// Resolved from the client's own tests, so that this folder needs no packages.
const require = createRequire(new URL("../../clients/js/package.json", import.meta.url));
export const WebSocket = require("ws");

/** Numbered publications with a text of `bytes`, or of a random length. */
export const messages = (from, to, bytes) =>
  range(from, to).map((n) => ({ n, text: "x".repeat(bytes ?? Math.random() * 200) }));

/** Each function returns `record(url, channel, options)`, with the result `{ events(), close() }`, and `close()`. */
export const runtimes = { Node: openNode, Chromium: openChromium };

export async function openNode() {
  return {
    async record(url, channel, options) {
      const events = await record(connect, url, channel, { WebSocket, ...options });
      return { events: async () => events, close: async () => events.client.close() };
    },
    async close() {},
  };
}

async function openChromium(site) {
  const browser = await launchChromium();
  const context = await newContext(browser);
  return {
    async record(url, channel, options) {
      const page = await context.newPage();
      await page.goto(site.url);
      await page.evaluate(async ([url, channel, options]) => {
        const { connect } = await import("/client.js");
        const { record } = await import("/recording_client.mjs");
        window.events = await record(connect, url, channel, options);
      }, [url, channel, options]);
      const events = () => page.evaluate(() => ({ ...window.events, client: undefined }));
      return { events, close: () => page.close() };
    },
    close: () => browser.close(),
  };
}

/** A server for the pages. Its origin differs from the gateway's and all proxies'. */
export async function openSite() {
  const files = {
    "/client.js": await readFile(new URL("../../clients/js/dist/client.js", import.meta.url)),
    "/recording_client.mjs": await readFile(new URL("recording_client.mjs", import.meta.url)),
  };
  const server = createServer(({ url }, response) => {
    response.setHeader("content-type", files[url] ? "text/javascript" : "text/html");
    response.end(files[url] ?? "<!doctype html><title>test</title>");
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  return { url: `http://127.0.0.1:${server.address().port}`, close: () => server.close() };
}
