// A Chromium without a window. A cold one on a slow disk takes its time, and so do its pages.
import { chromium } from "playwright-core";

const args = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"];

/** Its pages share what tabs of one person share. */
export async function openBrowser() {
  const executablePath = process.env.CHROMIUM || "/usr/bin/chromium";
  const browser = await chromium.launch({ executablePath, headless: true, args, timeout: 180_000 });
  const context = await browser.newContext();
  context.setDefaultTimeout(90_000);
  return { newPage: () => context.newPage(), close: () => browser.close() };
}
