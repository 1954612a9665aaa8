// The gateway's URL: one form for all transports, and a check that the gateway can be reached at all.

import { LastmileError } from "./protocol.js";

/** A URL with `http:` or `https:` and without a trailing slash. In a page it may be a path. Throws for anything else. */
export function gatewayUrl(url: string | URL): string {
  const text = String(url).replace(/^ws/i, "http");
  const base = text[0] === "/" ? globalThis.location?.origin : "";
  if (!/^https?:\/\/[^/?#@]+[^?#]*$/i.test(base + text)) {
    throw new LastmileError("invalid_url", `not a URL such as https://live.example.com: ${url}`);
  }
  return (base + text).replace(/\/+$/, "");
}

/** Statuses of a proxy whose gateway is away. */
const PROXY_ERRORS = [502, 503, 504];

/** Whether the gateway answers HTTP at all. If not, another transport would fail as well. */
export async function isReachable(url: string, fetch: typeof globalThis.fetch, timeoutMs: number): Promise<boolean> {
  try {
    // Any answer will do. Browsers hide answers of other origins without CORS: the gateway's CORP header forbids `no-cors`.
    const { status } = await fetch(`${url}/v1/poll`, { cache: "no-store", signal: AbortSignal.timeout(timeoutMs) });
    return !PROXY_ERRORS.includes(status);
  } catch {
    return false;
  }
}
