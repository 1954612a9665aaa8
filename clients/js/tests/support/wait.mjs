// Waiting for conditions and events. Timeouts suit a slow and busy machine: they cost nothing when the event arrives.

const TIMEOUT_MS = 90_000;

/** Polls `condition` until it is true, and returns its value. `label` names it in the error: a text or a function. */
export async function waitFor(condition, label = "a condition", timeoutMs = TIMEOUT_MS) {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) {
      throw new Error(`timed out waiting for ${typeof label === "function" ? label() : label}`);
    }
    await sleep(10);
  }
}

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** The next event that `matches`. Unlike `waitFor` it does not miss a short-lived state. */
export function nextEvent(emitter, name, matches = () => true, timeoutMs = TIMEOUT_MS) {
  const event = new Promise((done, failed) => {
    const timer = setTimeout(() => failed(new Error(`timed out waiting for ${name}`)), timeoutMs);
    const off = emitter.on(name, (event) => {
      if (!matches(event)) return;
      clearTimeout(timer);
      off();
      done(event);
    });
  });
  // A test that fails before it awaits the event reports its own error.
  event.catch(() => {});
  return event;
}

/** The next time that a client or a room enters a state. */
export const nextState = (emitter, state) => nextEvent(emitter, "state", (event) => event.state === state);
