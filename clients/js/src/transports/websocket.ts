// The WebSocket at `/v1/subscribe`.

import { LOST, parse } from "../protocol.js";
import type { OpenLink } from "./link.js";

export const SUBPROTOCOL = "lastmile.v1";

export const openWebSocket: OpenLink = (context) => {
  const { WebSocket: Socket, token } = context;
  // Told later, because the caller does not have its link yet.
  if (!Socket) return dead(() => context.onEnd(LOST));
  let socket: WebSocket;
  try {
    socket = new Socket(context.url.replace(/^http/, "ws") + "/v1/subscribe", SUBPROTOCOL);
  } catch {
    return dead(() => context.onEnd(LOST));
  }
  let waiting: string[] | undefined = [];
  const send = (command: object) => {
    const text = JSON.stringify(command);
    if (waiting) waiting.push(text);
    else if (socket.readyState === 1) socket.send(text);
  };
  socket.onopen = () => {
    const texts = waiting ?? [];
    waiting = undefined;
    // With a cookie the session is there already, and `hello` would come too late. Any command begins one without.
    send(token ? { type: "hello", token } : { type: "ping" });
    texts.forEach((text) => socket.send(text));
  };
  socket.onmessage = ({ data }) => {
    const frame = parse(data);
    if (frame) context.onFrame(frame);
  };
  // An error is followed by a close.
  socket.onerror = () => {};
  socket.onclose = ({ code, reason }) => context.onEnd({ code, reason: reason || LOST.reason });
  return {
    subscribe: (id, channel) => send({ type: "subscribe", id, ...context.wish(channel) }),
    unsubscribe: (id, channel) => send({ type: "unsubscribe", id, channel }),
    send,
    close() {
      socket.onmessage = socket.onclose = socket.onopen = null;
      socket.close(1000);
    },
  };
};

function dead(tell: () => void) {
  const timer = setTimeout(tell);
  return { subscribe() {}, unsubscribe() {}, send() {}, close: () => clearTimeout(timer) };
}
