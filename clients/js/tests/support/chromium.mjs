// Headless Chromium from `CHROMIUM`. A cold start on a slow machine takes long, hence the timeouts.
import { chromium } from "playwright-core";

export const PAGE_TIMEOUT_MS = 90_000;

const args = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
  // Chromium hides local addresses behind mDNS names, which nothing resolves here: WebRTC could not connect.
  "--disable-features=WebRtcHideLocalIpsWithMdns",
];

export function launchChromium() {
  const executablePath = process.env.CHROMIUM || "/usr/bin/chromium";
  return chromium.launch({ executablePath, headless: true, args, timeout: 180_000 });
}

/** A profile of its own: its pages share cookies and storage. */
export async function newContext(browser) {
  const context = await browser.newContext();
  context.setDefaultTimeout(PAGE_TIMEOUT_MS);
  return context;
}
