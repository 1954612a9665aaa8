// Waiting for something to become true.
export async function until(condition, what = "a condition", patienceMs = 20_000) {
  const deadline = Date.now() + patienceMs;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`waited in vain for ${typeof what === "function" ? what() : what}`);
    await pause(10);
  }
}

export const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** The next event of a name. */
export function once(emitter, name, patienceMs = 20_000) {
  return new Promise((done, failed) => {
    const timer = setTimeout(() => failed(new Error(`waited in vain for ${name}`)), patienceMs);
    const off = emitter.on(name, (event) => {
      clearTimeout(timer);
      off();
      done(event);
    });
  });
}
