// Server-sent events at `/v1/events`, read from `fetch`: unlike `EventSource` that sends a token and tells refusals.

import { parse } from "../protocol.js";
import { HttpLink } from "./http.js";
import type { OpenLink } from "./link.js";
import { EventParser } from "./sse.js";

/** A little more than the gateway's heartbeat. */
const QUIET_SECS = 20;

class EventsLink extends HttpLink {
  protected async run(signal: AbortSignal, started: () => void): Promise<void> {
    const response = await this.get(`/v1/events?${this.query()}`, "text/event-stream", signal);
    const reader = response.body!.getReader();
    const parser = new EventParser(({ event, data }) => {
      const frame = parse(data);
      if (!frame || signal.aborted) return;
      if (event === "close") this.end({ code: Number(frame.code), reason: String(frame.reason) });
      else this.tell(event === "message" ? frame : { ...frame, type: event });
    });
    for (;;) {
      const { done, value } = await reader.read();
      if (done || signal.aborted) return;
      started();
      this.live();
      parser.push(value);
    }
  }
}

export const openEvents: OpenLink = (context) => new EventsLink(context, QUIET_SECS);
