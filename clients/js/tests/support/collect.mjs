// Collects the events of a subscription.

export const range = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => from + index);

export function collect(subscription) {
  const received = { data: [], offsets: [], gaps: [], isEnded: false, error: undefined };
  subscription.on("message", ({ data, offset }) => (received.data.push(data), received.offsets.push(offset)));
  subscription.on("gap", (gap) => received.gaps.push(gap));
  subscription.on("ended", (error) => Object.assign(received, { isEnded: true, error }));
  return received;
}
