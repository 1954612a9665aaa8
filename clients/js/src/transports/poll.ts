// Long polls at `/v1/poll`: the last resort, through anything that carries HTTP.

import type { Frame } from "../protocol.js";
import { HttpLink } from "./http.js";
import type { OpenLink } from "./link.js";

/** Between polls that bring nothing and do not wait either. */
const PAUSE_MS = 500;

class PollLink extends HttpLink {
  protected async run(signal: AbortSignal, started: () => void): Promise<void> {
    while (!signal.aborted) {
      const query = this.query();
      const began = Date.now();
      // Who is not known to be subscribed waits for that alone.
      const isNew = [...this.channels.values()].some(({ told }) => !told);
      const wait = isNew ? 0 : this.context.pollSecs;
      const response = await this.get(`/v1/poll?${query}&wait=${wait}`, "application/json", signal);
      const answer = await response.json();
      if (signal.aborted) return;
      started();
      this.live();
      for (const list of [answer.subscribed, answer.messages, answer.unsubscribed]) {
        (list ?? []).forEach((frame: Frame) => this.tell(frame));
      }
      if (answer.close) return this.end(answer.close);
      if (!this.channels.size) return new Promise((done) => signal.addEventListener("abort", () => done()));
      if (!isNew && this.query() === query && Date.now() - began < PAUSE_MS) {
        await new Promise((done) => setTimeout(done, PAUSE_MS));
      }
    }
  }
}

export const openPoll: OpenLink = (context) => new PollLink(context, context.pollSecs + 5);
