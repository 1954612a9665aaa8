// Steps of the rows: subscribers that connect, stall and reconnect, and the description of the outcome.
import { openStallingProxy } from "../faults/stalled_reader.mjs";
import { range, sleep, waitFor } from "../support.mjs";
import { PROBE, Subscriber } from "./stream.mjs";

export const CHANNEL = "c";
export const LARGE_TEXT = "x".repeat(8000);

export async function publish(server, from, to, channel = CHANNEL, text) {
  for (let n = from; n <= to; n++) await server.publish(channel, n, text);
}

/** Publishes probes until the subscriber receives one: a response alone does not show that the subscription is live. */
export async function waitUntilLive(server, subscriber, channels = [CHANNEL]) {
  subscriber.probed.clear();
  await waitFor(async () => {
    const pending = channels.filter((channel) => !subscriber.probed.has(channel));
    for (const channel of pending) await server.publish(channel, PROBE);
    await sleep(50);
    return !pending.length;
  }, "a probe");
}

/** Waits up to 10 s for a condition that some servers never fulfil. */
export async function waitBriefly(condition) {
  for (let startedAt = Date.now(); !condition() && Date.now() - startedAt < 10_000; await sleep(20));
}

/** A subscriber that has received messages 1 to `last`. */
export async function startSubscriber(server, last, options) {
  const subscriber = new Subscriber();
  const stream = await server.events(subscriber, [CHANNEL], options);
  await waitUntilLive(server, subscriber);
  await publish(server, 1, last);
  await subscriber.waitForMessage(last);
  return { subscriber, stream };
}

/** A subscriber that has received messages 1 to 5 and is disconnected. */
export async function receiveFive(server) {
  const { subscriber, stream } = await startSubscriber(server, 5);
  await stream.close();
  return subscriber;
}

/** Resumes from the subscriber's cursor. Then publishes message `last`: after it no missed message can follow.
 * `expected` is the number of messages that arrive if the server recovers all it can. */
export async function reconnect(server, subscriber, { last, expected = last }) {
  const stream = await server.events(subscriber, [CHANNEL]);
  if (subscriber.refusal) return describeOutcome(subscriber, range(1, last));
  await subscriber.settle(expected - 1);
  await waitUntilLive(server, subscriber);
  await publish(server, last, last);
  await subscriber.waitForMessage(last);
  await stream.close();
  return describeOutcome(subscriber, range(1, last));
}

/** Compares the received messages with the expected ones, and states whether a loss was reported. */
export function describeOutcome({ messages, isLossReported, refusal }, expected) {
  if (refusal) return `reported: ${refusal}`;
  const numbers = messages.map(({ n }) => n);
  const lost = expected.filter((n) => !numbers.includes(n)).length;
  const repeated = numbers.length - new Set(numbers).size;
  const isOrdered = numbers.every((n, index) => index === 0 || n > numbers[index - 1]);
  const faults = [];
  if (lost) faults.push(`${lost} of ${expected.length} lost`);
  if (repeated) faults.push(`${repeated} repeated`);
  if (!repeated && !isOrdered) faults.push("out of order");
  if (faults.length) return `${faults.join(", ")}: ${isLossReported ? "reported" : "**not reported**"}`;
  return isLossReported ? "each once, in order, though a loss is reported" : "each once, in order";
}

/** Receives five messages, stalls while 24 MB pass, reads on, and reconnects if the server closed the connection.
 * `describeMemory` gets the growth of the server's memory meanwhile. */
export async function stallAndReconnect(start, options, describeMemory) {
  const server = await start(options);
  const { subscriber, stream, proxy } = await startStalled(server);
  const before = await server.memory();
  await server.publishMany(CHANNEL, 6, 3000, LARGE_TEXT);
  const growth = (await server.memory()) - before;
  proxy.resume();
  await Promise.race([stream.ended, subscriber.settle(3000, 10_000)]);
  await stream.close();
  proxy.close();
  const outcome = await reconnect(server, subscriber, { last: 3001 });
  // The number of lost messages depends on the system's socket buffers.
  return describeMemory ? `${outcome.replace(/^\d+ of \d+/, "some")}; ${describeMemory(growth)}` : outcome;
}

export async function startStalled(server) {
  const proxy = await openStallingProxy(server.port());
  const { subscriber, stream } = await startSubscriber(server, 5, { url: proxy.url });
  proxy.stall();
  return { subscriber, stream, proxy };
}
