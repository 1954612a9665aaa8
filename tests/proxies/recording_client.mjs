// A client that is subscribed to one channel and records its events, for Node and for pages.

// Long enough that a busy machine does not look like a broken transport.
export const timing = {
  openMs: 6000, stableMs: 3000, pongMs: 10_000, backoffMs: 20, backoffMaxMs: 100, pollMs: 2000,
};

export function record(connect, url, channel, options = {}) {
  const client = connect(url, { timing, ...options });
  const events = { numbers: [], offsets: [], gaps: [], transports: [], client };
  client.on("state", ({ state, transport }) => {
    if (state === "connected" && events.transports.at(-1) !== transport) events.transports.push(transport);
  });
  const subscription = client.subscribe(channel);
  subscription.on("message", ({ data, offset }) => (events.numbers.push(data.n), events.offsets.push(offset)));
  // `index` is the number of publications before the gap.
  subscription.on("gap", ({ reason, after }) => {
    events.gaps.push({ reason, after: after.offset, index: events.offsets.length });
  });
  return new Promise((done, failed) => {
    subscription.on("subscribed", () => done(events));
    subscription.on("ended", failed);
  });
}
