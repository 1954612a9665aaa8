// What the tests with boxes in between have in common: listeners in Node and in Chromium, and publications.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { connect } from "../../clients/js/dist/client.js";
import { openBrowser } from "../../clients/js/tests/support/chromium.mjs";
import { listen } from "./recording_client.mjs";

export { Gateway } from "../../clients/js/tests/support/gateway.mjs";
export { pause, until } from "../../clients/js/tests/support/wait.mjs";

// The packages of the client's tests do for these.
const require = createRequire(new URL("../../clients/js/package.json", import.meta.url));
export const WebSocket = require("ws");

export const range = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => from + index);

/** Messages that say which they are, of `bytes` each or of some random length. */
export const messages = (from, to, bytes) =>
  range(from, to).map((n) => ({ n, text: "x".repeat(bytes ?? Math.random() * 200) }));

/** Each has `listen(url, channel, options)`, which gives `{ seen(), close() }`, and `close()`. */
export const listeners = { Node: openNode, Chromium: openChromium };

export async function openNode() {
  return {
    async listen(url, channel, options) {
      const seen = await listen(connect, url, channel, { WebSocket, ...options });
      return { seen: async () => seen, close: async () => seen.client.close() };
    },
    async close() {},
  };
}

/** `site.url` is the origin of the pages. */
async function openChromium(site) {
  const browser = await openBrowser();
  return {
    async listen(url, channel, options) {
      const page = await browser.newPage();
      await page.goto(site.url);
      await page.evaluate(async ([url, channel, options]) => {
        const { connect } = await import("/client.js");
        const { listen } = await import("/recording_client.mjs");
        window.seen = await listen(connect, url, channel, options);
      }, [url, channel, options]);
      const seen = () => page.evaluate(() => ({ ...window.seen, client: undefined }));
      return { seen, close: () => page.close() };
    },
    close: () => browser.close(),
  };
}

/** The pages' own server, of another origin than any box. */
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
