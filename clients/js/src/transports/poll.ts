// Long polls at `/v1/poll`: the last fallback, for networks that only pass plain HTTP.

import type { Frame } from "../protocol.js";
import { HttpLink } from "./http.js";
import type { OpenLink } from "./link.js";

/** Between polls that return at once. */
const MIN_POLL_INTERVAL_MS = 500;

class PollLink extends HttpLink {
  protected async run(signal: AbortSignal, onStarted: () => void): Promise<void> {
    while (!signal.aborted) {
      const query = this.query();
      const startedAt = Date.now();
      // A new channel needs its `subscribed` first, so this poll does not wait for publications.
      const hasUnconfirmed = [...this.channels.values()].some(({ isConfirmed }) => !isConfirmed);
      const wait = hasUnconfirmed ? 0 : this.context.pollSecs;
      const response = await this.get(`/v1/poll?${query}&wait=${wait}`, "application/json", signal);
      const answer = await response.json();
      if (signal.aborted) return;
      onStarted();
      this.recordActivity();
      for (const list of [answer.subscribed, answer.messages, answer.unsubscribed]) {
        (list ?? []).forEach((frame: Frame) => this.emitFrame(frame));
      }
      if (answer.close) return this.finish(answer.close);
      if (!this.channels.size) return new Promise((done) => signal.addEventListener("abort", () => done()));
      if (!hasUnconfirmed && this.query() === query && Date.now() - startedAt < MIN_POLL_INTERVAL_MS) {
        await new Promise((done) => setTimeout(done, MIN_POLL_INTERVAL_MS));
      }
    }
  }
}

export const openPoll: OpenLink = (context) => new PollLink(context, context.pollSecs + 5);
