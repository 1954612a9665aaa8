// Incremental parser for server-sent events (WHATWG HTML, section 9.2.6).

export interface ServerSentEvent {
  event: string;
  data: string;
}

/** Characters of one event; the gateway's are far shorter. */
const MAX_EVENT_CHARS = 64 * 1024 * 1024;

export class EventParser {
  #decoder = new TextDecoder();
  #rest = "";
  #event = "";
  #data: string[] = [];
  #length = 0;

  constructor(private onEvent: (event: ServerSentEvent) => void) {}

  /** Parses the next bytes. Throws if an event is too long. */
  push(bytes: Uint8Array): void {
    // The decoder removes the byte order mark.
    const text = this.#rest + this.#decoder.decode(bytes, { stream: true });
    let start = 0;
    // The rest has no line end except for a trailing carriage return.
    for (let at = Math.max(0, this.#rest.length - 1); at < text.length; at++) {
      const c = text[at];
      if (c !== "\n" && c !== "\r") continue;
      // A line feed may follow in the next bytes.
      if (c === "\r" && at + 1 === text.length) break;
      this.#parseLine(text.slice(start, at));
      if (c === "\r" && text[at + 1] === "\n") at++;
      start = at + 1;
    }
    this.#rest = text.slice(start);
    if (this.#rest.length + this.#length > MAX_EVENT_CHARS) throw new Error("server-sent event too long");
  }

  #parseLine(line: string): void {
    if (line === "") {
      if (this.#data.length) this.onEvent({ event: this.#event || "message", data: this.#data.join("\n") });
      this.#event = "";
      this.#data = [];
      this.#length = 0;
      return;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (field === "event") this.#event = value;
    if (field === "data") {
      this.#data.push(value);
      this.#length += value.length;
    }
  }
}
