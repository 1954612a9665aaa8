// Waiting for something to become true. The patience is that of a machine that is slow and busy: it costs nothing where
// the thing comes.
export async function until(condition, what = "a condition", patienceMs = 90_000) {
  const deadline = Date.now() + patienceMs;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`waited in vain for ${typeof what === "function" ? what() : what}`);
    await pause(10);
  }
}

export const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** The next event of a name that is as `isMeant` says. What passes quickly is heard so, where `until` may look too late. */
export function once(emitter, name, isMeant = () => true, patienceMs = 90_000) {
  const event = new Promise((done, failed) => {
    const timer = setTimeout(() => failed(new Error(`waited in vain for ${name}`)), patienceMs);
    const off = emitter.on(name, (event) => {
      if (!isMeant(event)) return;
      clearTimeout(timer);
      off();
      done(event);
    });
  });
  // Whoever awaits it is told; a test that failed before that says its own reason.
  event.catch(() => {});
  return event;
}

/** The next time that a client is in a state. */
export const becomes = (client, state) => once(client, "state", (event) => event.state === state);
