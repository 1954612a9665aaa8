// WebSocket transport at `/v1/subscribe`.

import { CONNECTION_LOST, parse } from "../protocol.js";
import type { OpenLink } from "./link.js";

const SUBPROTOCOL = "lastmile.v1";

export const openWebSocket: OpenLink = (context) => {
  const { WebSocket: Socket, token } = context;
  // Reported later, because the caller does not have its link yet.
  if (!Socket) return failedLink(() => context.onClose(CONNECTION_LOST));
  let socket: WebSocket;
  try {
    socket = new Socket(context.url.replace(/^http/, "ws") + "/v1/subscribe", SUBPROTOCOL);
  } catch {
    return failedLink(() => context.onClose(CONNECTION_LOST));
  }
  let unsent: string[] | undefined = [];
  const send = (command: object) => {
    const text = JSON.stringify(command);
    if (unsent) unsent.push(text);
    else if (socket.readyState === 1) socket.send(text);
  };
  socket.onopen = () => {
    const texts = unsent ?? [];
    unsent = undefined;
    // With a cookie the session exists already and `hello` would come too late. Otherwise any command starts one.
    send(token ? { type: "hello", token } : { type: "ping" });
    texts.forEach((text) => socket.send(text));
  };
  socket.onmessage = ({ data }) => {
    const frame = parse(data);
    if (frame) context.onFrame(frame);
  };
  // An error is followed by a close.
  socket.onerror = () => {};
  socket.onclose = ({ code, reason }) => context.onClose({ code, reason: reason || CONNECTION_LOST.reason });
  return {
    subscribe: (id, channel) => send({ type: "subscribe", id, ...context.resumeParams(channel) }),
    unsubscribe: (id, channel) => send({ type: "unsubscribe", id, channel }),
    send,
    close() {
      socket.onmessage = socket.onclose = socket.onopen = null;
      socket.close(1000);
    },
  };
};

function failedLink(onFail: () => void) {
  const timer = setTimeout(onFail);
  return { subscribe() {}, unsubscribe() {}, send() {}, close: () => clearTimeout(timer) };
}
