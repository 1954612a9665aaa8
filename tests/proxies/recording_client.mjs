// A client that listens to one channel and writes down what it is told, the same in Node and in a page.

// Long enough that a busy machine does not look like a box in between.
export const timing = {
  openMs: 6000, stableMs: 3000, pongMs: 10_000, backoffMs: 20, backoffMaxMs: 100, pollMs: 2000,
};

export function listen(connect, url, channel, options = {}) {
  const client = connect(url, { timing, ...options });
  const seen = { numbers: [], offsets: [], gaps: [], transports: [], client };
  client.on("state", ({ state, transport }) => {
    if (state === "connected" && seen.transports.at(-1) !== transport) seen.transports.push(transport);
  });
  const subscription = client.subscribe(channel);
  subscription.on("message", ({ data, offset }) => (seen.numbers.push(data.n), seen.offsets.push(offset)));
  // With how many came before it.
  subscription.on("gap", ({ reason, after }) => seen.gaps.push({ reason, after: after.offset, at: seen.offsets.length }));
  return new Promise((done, failed) => {
    subscription.on("subscribed", () => done(seen));
    subscription.on("ended", failed);
  });
}
