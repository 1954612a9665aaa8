// Events of a page that justify an immediate reconnect: the network is back, or the page became visible.

/** Calls `onWake` at such events. Returns a function that stops it. Without a document there are none. */
export function listenForWakeEvents(onWake: () => void): () => void {
  if (typeof document === "undefined") return () => {};
  const onVisibilityChange = () => document.visibilityState === "visible" && onWake();
  addEventListener("online", onWake);
  document.addEventListener("visibilitychange", onVisibilityChange);
  return () => {
    removeEventListener("online", onWake);
    document.removeEventListener("visibilitychange", onVisibilityChange);
  };
}
