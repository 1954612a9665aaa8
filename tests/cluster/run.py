#!/usr/bin/env python3
"""Injects faults into three gateways on one Redis under load. Every acknowledged publication must reach every subscriber
once and in order. Prints the figures of each fault; exits with 1 at the first failure.

    run.py [--subscribers 300] [--faults node,redis,full,partition,rolling,upgrade] [--rate 15] [--rounds 1]
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import time

from clients import Publisher, Record, ReplayedRequest, Subscriber
from env import BINARY, cluster_env
from rooms import MAX_SEATS, Room

CHANNELS = [f"prices.{name}" for name in ("btc", "eth/€", "xrp ?", "sol#1", "ada", "dot")]


class Run:
    def __init__(self, args, redis, nodes, key, network):
        self.args, self.redis, self.nodes, self.network, self.record = args, redis, nodes, network, Record()
        self.subscribers = [Subscriber(self.record, nodes, at % 3, CHANNELS[at // 3 % len(CHANNELS)])
                            for at in range(args.subscribers)]
        self.publishers = [Publisher(self.record, nodes, at, CHANNELS, key, args.rate) for at in range(3)]
        self.tasks, self.key, self.partitions = [], key, 0
        # This process opens a few hundred connections a second at best, fewer on a busy machine.
        self.reconnect_timeout_secs = 90 + args.subscribers / 30
        self.stall_secs = 0.0

    async def start(self):
        self.tasks.append(asyncio.create_task(self.measure_stalls()))
        for at, one in enumerate(self.subscribers):
            self.tasks.append(asyncio.create_task(one.run()))
            if at % 20 == 19:
                await asyncio.sleep(0.02)
        await self.all_connected(self.reconnect_timeout_secs)
        self.tasks += [asyncio.create_task(one.run()) for one in self.publishers]
        await self.until("first acknowledgements", lambda: all(one.ack_times for one in self.publishers))

    async def measure_stalls(self):
        """Adds up the seconds for which other work of the machine delayed this process."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.05)
            self.stall_secs += max(0, time.monotonic() - began - 0.06)

    def expect_within(self, secs, limit, text):
        """Checks a duration of a scenario. The delays of this process since the scenario began are added to the limit."""
        is_within = secs is not None and secs <= limit + self.stall_secs
        self.expect(is_within, f"{text} {secs} s, limit {limit} s plus {self.stall_secs:.1f} s of stalls")

    async def until(self, description, condition, secs=90):
        """Waits for a condition; returns how many seconds it took."""
        began = time.monotonic()
        while not condition():
            for task in self.tasks:
                if task.done():
                    task.result()
            if time.monotonic() - began > secs:
                raise RuntimeError(f"waited {secs} s for {description}; {self.summary()}")
            await asyncio.sleep(0.02)
        return time.monotonic() - began

    async def all_connected(self, secs):
        return await self.until("all subscribers", lambda: all(one.is_connected for one in self.subscribers), secs)

    async def settle(self):
        """Pauses the publishers and waits until every subscriber has every acknowledged publication."""
        for one in self.publishers:
            one.is_enabled = False
        await self.until("answers", lambda: not any(one.unanswered for one in self.publishers))
        # Publications without an answer may still be delivered.
        await asyncio.sleep(0.3)
        newest = {channel: 0 for channel in CHANNELS}
        for channel, _, offset in self.record.acknowledged.values():
            newest[channel] = max(newest[channel], offset)
        are_delivered = lambda: all(one.offset >= newest[one.channel] for one in self.subscribers)
        took = await self.until("deliveries", are_delivered)
        self.record.check(self.subscribers)
        for one in self.publishers:
            one.is_enabled = True
        return took

    async def wait_for_acks(self):
        """Waits until each publisher has an acknowledgement for a publication sent from now on; returns the seconds."""
        now = time.monotonic()
        await self.until("acknowledgements", lambda: all(one.first_ack_after(now) for one in self.publishers))
        return max(one.first_ack_after(now) for one in self.publishers)

    async def return_all_home(self):
        """Reconnects all clients to their initial nodes."""
        clients = [*self.subscribers, *self.publishers]
        await asyncio.gather(*(one.return_home() for one in clients))
        is_home = lambda: all(one.node_index == one.home_node and not one.is_returning_home for one in clients)
        await self.until("all clients on their initial nodes", is_home, self.reconnect_timeout_secs)
        await self.all_connected(self.reconnect_timeout_secs)
        await self.wait_for_acks()

    def reconnects(self):
        return sum(one.reconnects for one in self.subscribers)

    async def kill_node(self):
        """kill -9 of a node; its subscribers reconnect to the others."""
        killed_index = random.randrange(3)
        affected = [one for one in self.subscribers if one.node_index == killed_index]
        killed = time.monotonic()
        await asyncio.to_thread(self.nodes[killed_index].kill)
        began = time.monotonic()
        is_lost = lambda: not any(one.is_connected and one.node_index == killed_index for one in affected)
        await self.until("lost connections to be detected", is_lost)
        resumed_after = await self.all_connected(self.reconnect_timeout_secs) + (time.monotonic() - began)
        await self.wait_for_acks()
        ack_gap = max(one.longest_ack_gap(killed, time.monotonic()) for one in self.publishers)
        await asyncio.sleep(1)
        ready = await asyncio.to_thread(self.nodes[killed_index].start)
        return f"{len(affected)} subscribers reconnected to other nodes after {resumed_after:.2f} s, longest time between " \
               f"acknowledgements {ack_gap:.2f} s; the node is ready {ready:.2f} s after its start"

    async def kill_redis(self):
        """kill -9 of Redis and a restart with its append-only file."""
        before, began = self.reconnects(), time.monotonic()
        self.redis.kill()
        await self.until("refusals", lambda: all(one.first_refusal_after(began) for one in self.publishers))
        notified_after = max(one.first_refusal_after(began) for one in self.publishers)
        await asyncio.sleep(1.5)
        await asyncio.to_thread(self.redis.start)
        resumed_after = await self.wait_for_acks()
        self.expect_within(notified_after, 4, "publishers were refused after")
        self.expect_within(resumed_after, 5, "acknowledgements resumed after the restart of Redis within")
        self.expect(self.reconnects() == before, "subscribers lost their connections")
        return f"publishers refused after {notified_after:.2f} s, acknowledged again {resumed_after:.2f} s after Redis answered; " \
               f"no subscriber lost its connection"

    async def fill_redis(self):
        """Redis runs out of memory for publications, then has room again."""
        before, began = self.reconnects(), time.monotonic()
        self.redis.send_command("CONFIG SET maxmemory 1")
        await self.until("refusals", lambda: all(one.first_refusal_after(began) for one in self.publishers))
        notified_after = max(one.first_refusal_after(began) for one in self.publishers)
        await asyncio.sleep(4.5)
        last = max(at - began for one in self.publishers for at in one.ack_times)
        await self.until("/readyz to return 503", lambda: self.nodes[1].readiness() == 503)
        self.redis.send_command("CONFIG SET maxmemory 0")
        resumed_after = await self.wait_for_acks()
        await self.until("readiness", lambda: all(node.readiness() == 200 for node in self.nodes))
        self.expect(self.reconnects() == before, "subscribers lost their connections")
        return f"publishers refused after {notified_after:.2f} s, last acknowledgement at {max(last, 0):.2f} s, /readyz 503; " \
               f"acknowledged again {resumed_after:.2f} s after memory was freed"

    async def partition(self):
        """One node cannot reach Redis; its subscribers stay connected and catch up after the partition."""
        before = self.reconnects()
        here, *others = self.publishers
        began = time.monotonic()
        room = Room(self.nodes)
        self.expect(await room.open(), "two peers were not admitted to a room")
        probing = asyncio.create_task(room.probe_forever())
        direction = self.args.direction if self.args.direction != "each" else ("both", "to", "from")[self.partitions % 3]
        self.partitions += 1
        self.network.cut(direction)
        readiness, affected = [], [one for one in self.subscribers if one.node_index == 0]
        self.record.notices.clear()
        spent = asyncio.create_task(self.replays(self.args.partition_secs))
        while time.monotonic() - began < self.args.partition_secs:
            readiness.append((time.monotonic() - began, await asyncio.to_thread(self.nodes[0].readiness)))
            await asyncio.sleep(0.2)
        self.network.heal()
        healed = time.monotonic()
        notified_after = here.first_refusal_after(began)
        degraded = [at - began for at in self.record.notices["degraded"]]
        self.expect(len(degraded) == len(affected), f"{len(degraded)} of {len(affected)} subscribers received `degraded`")
        unready = next((at for at, status in readiness if status == 503), None)
        last_ack = max(0, *(at - began for at in here.ack_times if at < healed))
        self.expect_within(notified_after, 4, "the publisher was refused after")
        self.expect_within(last_ack, 4, "the last acknowledgement arrived after")
        self.expect_within(unready, 6, "/readyz returned 503 after")
        ack_gap = max((one.longest_ack_gap(began, healed) for one in others), default=0)
        self.expect_within(ack_gap, 4, "publishers on other nodes waited")
        resumed_after = await self.wait_for_acks()
        has_caught_up = lambda: all(one.offset + 30 >= max(other.offset for other in self.subscribers
                                                     if other.channel == one.channel) for one in affected)
        caught_up_after = await self.until("the node's subscribers to catch up", has_caught_up) + resumed_after
        self.expect_within(caught_up_after, 10, "subscribers caught up after")
        ready = await self.until("readiness", lambda: self.nodes[0].readiness() == 200)
        self.expect(self.reconnects() == before, "subscribers lost their connections")
        restored = self.record.notices["restored"]
        await self.until("all to receive `restored`", lambda: len(restored) >= len(affected))
        replays = await spent
        probing.cancel()
        await asyncio.gather(probing, return_exceptions=True)
        self.expect(room.max_peers <= MAX_SEATS, f"{room.max_peers} peers were in a room for {MAX_SEATS}")
        peers = len(room.peers)
        await room.close()
        return f"{direction}: its publisher refused after {notified_after or 0:.2f} s, last acknowledgement there at " \
               f"{last_ack:.2f} s, /readyz 503 after {unready or 0:.1f} s; on other nodes at most {ack_gap:.2f} s between " \
               f"acknowledgements; healed after {self.args.partition_secs} s: {len(affected)} subscribers caught up within " \
               f"{caught_up_after:.2f} s, ready after {caught_up_after + ready:.1f} s, none disconnected; {len(degraded)} received " \
               f"`degraded` after {max(degraded, default=0):.2f} s and {len(restored)} `restored`; a room of {MAX_SEATS} seats " \
               f"had at most {room.max_peers} peers and has {peers}; replays {replays}"

    async def replays(self, secs):
        """Replays signed requests to all nodes, during a partition and after it: each is accepted at most once."""
        here, there = (ReplayedRequest(self.key, self.nodes[at], CHANNELS[0], f"replay {at} {self.partitions}") for at in (0, 1))
        # Late enough that the signature is still fresh after the partition.
        await asyncio.sleep(max(secs - 20, secs / 3))
        statuses = [await there.send(self.nodes[1]), await there.send(self.nodes[0]), await here.send(self.nodes[0])]
        self.expect(statuses[0] == 200, f"a node outside the partition answered {statuses[0]}")
        await asyncio.sleep(secs - max(secs - 20, secs / 3) + 4)
        for once in (there, here):
            for node in [*self.nodes, *self.nodes]:
                statuses.append(await once.send(node))
        self.expect(there.accepted == 1 and here.accepted <= 1, f"replays were accepted: {statuses}")
        return statuses

    async def rolling_restart(self):
        """Restarts every node with SIGTERM, one after the other. One client of the last node never answers."""
        before, figures, window = self.record.closes.copy(), [], self.args.window
        for at, node in enumerate(self.nodes):
            with node.open_unresponsive_client() if at == 2 else contextlib.nullcontext():
                self.record.node_closes.clear()
                began = time.monotonic()
                took = await asyncio.to_thread(node.kill, signal.SIGTERM)
            self.expect(node.process.returncode == 0, f"{node.name} ended with {node.process.returncode}")
            self.expect_within(took, window + 5, f"{node.name} drained for")
            deviation = max_deviation([moment - began for moment, whose in self.record.node_closes if whose == at], window)
            ready = await asyncio.to_thread(node.start)
            await self.all_connected(self.reconnect_timeout_secs)
            figures.append(f"{took:.1f}+{ready:.1f} (±{100 * deviation:.0f} %)")
        closes = self.record.closes - before
        self.expect(set(closes) <= {4000}, f"connections ended with {dict(closes)}")
        return f"drain + start in s (maximal deviation of the closes per tenth of the {window} s): {', '.join(figures)}; " \
               f"{closes.total()} subscriber connections closed with 4000"

    async def rolling_upgrade(self):
        """A rolling restart in which each node starts with the other binary, so that both versions run side by side."""
        for node in self.nodes:
            node.binary = self.args.other if node.binary == BINARY else BINARY
        return await self.rolling_restart()

    def expect(self, condition, text):
        if not condition:
            self.record.add_failure(text)

    def summary(self):
        record, latencies = self.record, sorted(self.record.latencies) or [0]
        delivered = {data for seen in record.delivered.values() for data in seen.values()}
        arrived = sum(data in delivered for data in record.unknown_outcome)
        at = lambda part: 1000 * latencies[min(int(part * len(latencies)), len(latencies) - 1)]
        return f"{len(record.acknowledged)} acknowledged (p50 {at(.5):.1f} ms, p99 {at(.99):.0f} ms), " \
               f"{len(record.unknown_outcome)} of unknown outcome ({arrived} of them delivered), " \
               f"refused {dict(record.refused)}, {record.deliveries} deliveries, closes {dict(record.closes)}"


def max_deviation(moments, window):
    """The largest relative deviation of a tenth of the window from an even distribution."""
    if not moments:
        return 0
    tenths = [0] * 10
    for moment in moments:
        tenths[min(int(moment / window * 10), 9)] += 1
    mean = len(moments) / 10
    return max(abs(count - mean) for count in tenths) / mean


async def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subscribers", type=int, default=300)
    parser.add_argument("--rate", type=float, default=15, help="publications a second on each node")
    parser.add_argument("--faults", default="node,redis,full,partition,rolling")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--partition-secs", type=float, default=10)
    parser.add_argument("--direction", choices=["to", "from", "both", "each"], default="both", help="direction of the dropped packets")
    parser.add_argument("--window", type=int, default=2, help="drain.window_secs")
    parser.add_argument("--other", default=BINARY, help="another gateway binary, for `upgrade`")
    parser.add_argument("--fsync", choices=["always", "everysec"], default="everysec")
    args = parser.parse_args()
    began = time.monotonic()
    async with cluster_env(args.fsync, args.window) as parts:
        run = Run(args, *parts)
        print(f"{args.subscribers} subscribers on 3 nodes, 3 publishers with {args.rate:g}/s each, {len(CHANNELS)} channels, "
              f"appendfsync {args.fsync}, load {os.getloadavg()[0]:.1f}, {BINARY}\npartition: {parts[3].description}", flush=True)
        await run.start()
        scenarios = {"node": run.kill_node, "redis": run.kill_redis, "full": run.fill_redis, "partition": run.partition,
                     "rolling": run.rolling_restart, "upgrade": run.rolling_upgrade}
        for fault in args.faults.split(",") * args.rounds:
            await run.return_all_home()
            await asyncio.sleep(1)
            run.stall_secs = 0.0
            figures = await scenarios[fault]()
            settled = await run.settle()
            print(f"{fault}: {figures}; all delivered {settled:.2f} s after the last answer", flush=True)
            if run.record.failures:
                break
        print(run.summary(), f"in {time.monotonic() - began:.0f} s")
        for task in run.tasks:
            task.cancel()
        await asyncio.gather(*run.tasks, return_exceptions=True)
        if run.record.failures:
            raise RuntimeError("\n".join(run.record.failures))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        asyncio.run(main())
    except RuntimeError as error:
        sys.exit(f"FAILED: {error}")
