// Reads a stream of server-sent events (WHATWG HTML, section 9.2.6), cut anywhere.

export interface ServerSentEvent {
  event: string;
  data: string;
}

/** Characters of one event; a gateway's message is far below. */
const MAX_LENGTH = 64 * 1024 * 1024;

export class EventParser {
  #decoder = new TextDecoder();
  #rest = "";
  #event = "";
  #data: string[] = [];
  #length = 0;

  constructor(private onEvent: (event: ServerSentEvent) => void) {}

  /** Takes the next bytes. Throws if an event has no end. */
  push(bytes: Uint8Array): void {
    // The decoder takes the byte order mark away.
    const text = this.#rest + this.#decoder.decode(bytes, { stream: true });
    let start = 0;
    // The rest has no line end, but for a carriage return at its end.
    for (let at = Math.max(0, this.#rest.length - 1); at < text.length; at++) {
      const c = text[at];
      if (c !== "\n" && c !== "\r") continue;
      // Whether a line feed follows is not known yet.
      if (c === "\r" && at + 1 === text.length) break;
      this.#parseLine(text.slice(start, at));
      if (c === "\r" && text[at + 1] === "\n") at++;
      start = at + 1;
    }
    this.#rest = text.slice(start);
    if (this.#rest.length + this.#length > MAX_LENGTH) throw new Error("an event without an end");
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
