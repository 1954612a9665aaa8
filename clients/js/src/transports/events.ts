// Server-sent events at `/v1/events`, read with `fetch`: unlike `EventSource` it can send a token and read refusals.

import { parse } from "../protocol.js";
import { HttpLink } from "./http.js";
import type { OpenLink } from "./link.js";
import { EventParser } from "./sse.js";

/** Longer than the gateway's heartbeat interval. */
const EVENTS_IDLE_SECS = 20;

class EventsLink extends HttpLink {
  protected async run(signal: AbortSignal, onStarted: () => void): Promise<void> {
    const response = await this.get(`/v1/events?${this.query()}`, "text/event-stream", signal);
    const reader = response.body!.getReader();
    const parser = new EventParser(({ event, data }) => {
      const frame = parse(data);
      if (!frame || signal.aborted) return;
      if (event === "close") this.finish({ code: Number(frame.code), reason: String(frame.reason) });
      else this.emitFrame(event === "message" ? frame : { ...frame, type: event });
    });
    for (;;) {
      const { done, value } = await reader.read();
      if (done || signal.aborted) return;
      onStarted();
      this.recordActivity();
      parser.push(value);
    }
  }
}

export const openEvents: OpenLink = (context) => new EventsLink(context, EVENTS_IDLE_SECS);
