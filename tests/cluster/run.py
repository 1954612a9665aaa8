#!/usr/bin/env python3
"""Three gateways on one Redis, with faults under load: every publication that was acknowledged reaches every subscriber
once and in order. Prints what happened in figures; ends with 1 at the first fault.

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

from clients import Once, Publisher, Record, Subscriber
from rooms import SEATS, Room
from env import BINARY, world

CHANNELS = [f"prices.{name}" for name in ("btc", "eth/€", "xrp ?", "sol#1", "ada", "dot")]


class Run:
    def __init__(self, args, redis, nodes, key, network):
        self.args, self.redis, self.nodes, self.network, self.record = args, redis, nodes, network, Record()
        self.subscribers = [Subscriber(self.record, nodes, at % 3, CHANNELS[at // 3 % len(CHANNELS)])
                            for at in range(args.subscribers)]
        self.publishers = [Publisher(self.record, nodes, at, CHANNELS, key, args.rate) for at in range(3)]
        self.tasks, self.key, self.partitions = [], key, 0
        # This one process opens some hundred connections a second at best, less on a busy machine.
        self.patience = 90 + args.subscribers / 30
        self.late = 0.0

    async def start(self):
        self.tasks.append(asyncio.create_task(self.watch_machine()))
        for at, one in enumerate(self.subscribers):
            self.tasks.append(asyncio.create_task(one.run()))
            if at % 20 == 19:
                await asyncio.sleep(0.02)
        await self.all_connected(self.patience)
        self.tasks += [asyncio.create_task(one.run()) for one in self.publishers]
        await self.until("first acknowledgements", lambda: all(one.acks for one in self.publishers))

    async def watch_machine(self):
        """How many seconds a machine that is busy elsewhere has kept this process waiting."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.05)
            self.late += max(0, time.monotonic() - began - 0.06)

    def expect_within(self, secs, limit, text):
        """Of a scenario, on a machine that does nothing else. What it kept us waiting since the scenario began is not held
        against the gateways."""
        self.expect(secs is not None and secs <= limit + self.late, f"{text} {secs} s, not {limit} s and {self.late:.1f} s of waiting")

    async def until(self, what, is_so, secs=90):
        """Waits; returns how long it took."""
        began = time.monotonic()
        while not is_so():
            for task in self.tasks:
                if task.done():
                    task.result()
            if time.monotonic() - began > secs:
                raise RuntimeError(f"waited {secs} s for {what}; {self.figures()}")
            await asyncio.sleep(0.02)
        return time.monotonic() - began

    async def all_connected(self, secs):
        return await self.until("all subscribers", lambda: all(one.is_connected for one in self.subscribers), secs)

    async def settle(self):
        """Publishers pause; everything that was acknowledged is at every subscriber."""
        for one in self.publishers:
            one.is_on = False
        await self.until("answers", lambda: not any(one.waiting for one in self.publishers))
        # What was never answered may still come.
        await asyncio.sleep(0.3)
        newest = {channel: 0 for channel in CHANNELS}
        for channel, _, offset in self.record.acknowledged.values():
            newest[channel] = max(newest[channel], offset)
        is_there = lambda: all(one.offset >= newest[one.channel] for one in self.subscribers)
        took = await self.until("deliveries", is_there)
        self.record.check(self.subscribers)
        for one in self.publishers:
            one.is_on = True
        return took

    async def flows(self):
        """Seconds until each publisher has an acknowledgement of what it sent from now on."""
        now = time.monotonic()
        await self.until("acknowledgements", lambda: all(one.first_ack_after(now) for one in self.publishers))
        return max(one.first_ack_after(now) for one in self.publishers)

    async def spread(self):
        """Everybody is where it began."""
        await asyncio.gather(*(one.go_home() for one in [*self.subscribers, *self.publishers]))
        is_home = lambda: all(one.at == one.home and not one.is_called for one in [*self.subscribers, *self.publishers])
        await self.until("everybody to be home", is_home, self.patience)
        await self.all_connected(self.patience)
        await self.flows()

    def reconnects(self):
        return sum(one.reconnects for one in self.subscribers)

    async def node(self):
        """kill -9 of a node; its subscribers come back on the others."""
        victim = random.randrange(3)
        mine = [one for one in self.subscribers if one.at == victim]
        killed = time.monotonic()
        await asyncio.to_thread(self.nodes[victim].kill)
        began = time.monotonic()
        await self.until("the loss to be seen", lambda: not any(one.is_connected and one.at == victim for one in mine))
        back = await self.all_connected(self.patience) + (time.monotonic() - began)
        await self.flows()
        acks = max(one.longest_silence(killed, time.monotonic()) for one in self.publishers)
        await asyncio.sleep(1)
        ready = await asyncio.to_thread(self.nodes[victim].start)
        return f"{len(mine)} subscribers back on other nodes after {back:.2f} s, no publisher waited longer than {acks:.2f} s for an " \
               f"acknowledgement; the node is ready {ready:.2f} s after its start"

    async def redis_(self):
        """kill -9 of Redis; it comes back with its append-only file."""
        before, began = self.reconnects(), time.monotonic()
        self.redis.kill()
        await self.until("refusals", lambda: all(one.first_refusal_after(began) for one in self.publishers))
        told = max(one.first_refusal_after(began) for one in self.publishers)
        await asyncio.sleep(1.5)
        await asyncio.to_thread(self.redis.start)
        back = await self.flows()
        self.expect_within(told, 4, "publishers were told after")
        self.expect_within(back, 5, "all went on after Redis was back for")
        self.expect(self.reconnects() == before, "subscribers lost their connections")
        return f"publishers told after {told:.2f} s, acknowledged again {back:.2f} s after Redis answered; " \
               f"no subscriber lost its connection"

    async def full(self):
        """Redis has no memory left for publications, then has it again."""
        before, began = self.reconnects(), time.monotonic()
        self.redis.command("CONFIG SET maxmemory 1")
        await self.until("refusals", lambda: all(one.first_refusal_after(began) for one in self.publishers))
        told = max(one.first_refusal_after(began) for one in self.publishers)
        await asyncio.sleep(4.5)
        last = max(at - began for one in self.publishers for at in one.acks)
        await self.until("/readyz to say it", lambda: self.nodes[1].readiness() == 503)
        self.redis.command("CONFIG SET maxmemory 0")
        back = await self.flows()
        await self.until("readiness", lambda: all(node.readiness() == 200 for node in self.nodes))
        self.expect(self.reconnects() == before, "subscribers lost their connections")
        return f"publishers told after {told:.2f} s, last acknowledgement at {max(last, 0):.2f} s, /readyz 503 meanwhile; " \
               f"acknowledged again {back:.2f} s after there was room"

    async def partition(self):
        """One node does not reach Redis; its subscribers stay and are made whole."""
        before = self.reconnects()
        here, *others = self.publishers
        began = time.monotonic()
        room = Room(self.nodes)
        self.expect(await room.open(), "two peers were not let into a room")
        siege = asyncio.create_task(room.besiege())
        direction = self.args.direction if self.args.direction != "each" else ("both", "to", "from")[self.partitions % 3]
        self.partitions += 1
        self.network.cut(direction)
        readiness, mine = [], [one for one in self.subscribers if one.at == 0]
        self.record.told.clear()
        spent = asyncio.create_task(self.replays(self.args.partition_secs))
        while time.monotonic() - began < self.args.partition_secs:
            readiness.append((time.monotonic() - began, await asyncio.to_thread(self.nodes[0].readiness)))
            await asyncio.sleep(0.2)
        self.network.heal()
        healed = time.monotonic()
        told = here.first_refusal_after(began)
        degraded = [at - began for at in self.record.told["degraded"]]
        self.expect(len(degraded) == len(mine), f"{len(degraded)} of {len(mine)} subscribers were told that it is degraded")
        unready = next((at for at, status in readiness if status == 503), None)
        last_ack = max(0, *(at - began for at in here.acks if at < healed))
        self.expect_within(told, 4, "the publisher was told after")
        self.expect_within(last_ack, 4, "the last acknowledgement came after")
        self.expect_within(unready, 6, "/readyz said it after")
        silence = max((one.longest_silence(began, healed) for one in others), default=0)
        self.expect_within(silence, 4, "publishers on other nodes waited")
        back = await self.flows()
        is_level = lambda: all(one.offset + 30 >= max(other.offset for other in self.subscribers
                                                     if other.channel == one.channel) for one in mine)
        whole = await self.until("the node's subscribers to be made whole", is_level) + back
        self.expect_within(whole, 10, "subscribers were whole after")
        ready = await self.until("readiness", lambda: self.nodes[0].readiness() == 200)
        self.expect(self.reconnects() == before, "subscribers lost their connections")
        restored = self.record.told["restored"]
        await self.until("all to be told `restored`", lambda: len(restored) >= len(mine))
        replays = await spent
        siege.cancel()
        await asyncio.gather(siege, return_exceptions=True)
        self.expect(room.most <= SEATS, f"{room.most} peers were in a room for {SEATS}")
        peers = len(room.peers)
        await room.close()
        return f"{direction}: its publisher told after {told or 0:.2f} s, last acknowledgement there at {last_ack:.2f} s, /readyz 503 after " \
               f"{unready or 0:.1f} s; elsewhere at most {silence:.2f} s between acknowledgements; after {self.args.partition_secs} s " \
               f"healed: {len(mine)} subscribers whole within {whole:.2f} s, ready after {whole + ready:.1f} s, none lost; " \
               f"{len(degraded)} told `degraded` after {max(degraded, default=0):.2f} s and {len(restored)} `restored`; " \
               f"a room for {SEATS} had at most {room.most} peers and has {peers}; replays {replays}"

    async def replays(self, secs):
        """Signed requests during a partition and after it, to all nodes: each is accepted once at most."""
        here, there = (Once(self.key, self.nodes[at], CHANNELS[0], f"replay {at} {self.partitions}") for at in (0, 1))
        # Late enough that the signature is still young after the partition.
        await asyncio.sleep(max(secs - 20, secs / 3))
        statuses = [await there.send(self.nodes[1]), await there.send(self.nodes[0]), await here.send(self.nodes[0])]
        self.expect(statuses[0] == 200, f"a request to a node that is not cut off got {statuses[0]}")
        await asyncio.sleep(secs - max(secs - 20, secs / 3) + 4)
        for once in (there, here):
            for node in [*self.nodes, *self.nodes]:
                statuses.append(await once.send(node))
        self.expect(there.accepted == 1 and here.accepted <= 1, f"requests were accepted again: {statuses}")
        return statuses

    async def rolling(self):
        """Every node ends with SIGTERM, one after the other, and starts again. One client of the last one never answers."""
        before, figures, window = self.record.closes.copy(), [], self.args.window
        for at, node in enumerate(self.nodes):
            with node.stall() if at == 2 else contextlib.nullcontext():
                self.record.ends.clear()
                began = time.monotonic()
                took = await asyncio.to_thread(node.kill, signal.SIGTERM)
            self.expect(node.process.returncode == 0, f"{node.name} ended with {node.process.returncode}")
            self.expect_within(took, window + 5, f"{node.name} drained for")
            spread = uneven([moment - began for moment, whose in self.record.ends if whose == at], window)
            ready = await asyncio.to_thread(node.start)
            await self.all_connected(self.patience)
            figures.append(f"{took:.1f}+{ready:.1f} (±{100 * spread:.0f} %)")
        closes = self.record.closes - before
        self.expect(set(closes) <= {4000}, f"connections ended with {dict(closes)}")
        return f"drain + start in s (closes in a tenth of the {window} s: off the mean by at most): {', '.join(figures)}; " \
               f"{closes.total()} times a subscriber was told to come back (4000)"

    async def upgrade(self):
        """The same, and each node starts with the other program: old and new ones share the work for a while."""
        for node in self.nodes:
            node.binary = self.args.other if node.binary == BINARY else BINARY
        return await self.rolling()

    def expect(self, is_so, text):
        if not is_so:
            self.record.fault(text)

    def figures(self):
        record, latencies = self.record, sorted(self.record.latencies) or [0]
        delivered = {data for seen in record.truth.values() for data in seen.values()}
        came = sum(data in delivered for data in record.unknown)
        at = lambda part: 1000 * latencies[min(int(part * len(latencies)), len(latencies) - 1)]
        return f"{len(record.acknowledged)} acknowledged (p50 {at(.5):.1f} ms, p99 {at(.99):.0f} ms), " \
               f"{len(record.unknown)} of unknown fate ({came} of them came), refused {dict(record.refused)}, {record.deliveries} deliveries, " \
               f"closes {dict(record.closes)}"


def uneven(moments, window):
    """How far the busiest or quietest tenth of the window is from an even spread, as a part of that."""
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
    parser.add_argument("--direction", choices=["to", "from", "both", "each"], default="both", help="what the partition swallows")
    parser.add_argument("--window", type=int, default=2, help="drain.window_secs")
    parser.add_argument("--other", default=BINARY, help="another version of the gateway, for `upgrade`")
    parser.add_argument("--fsync", choices=["always", "everysec"], default="everysec")
    args = parser.parse_args()
    began = time.monotonic()
    async with world(args.fsync, args.window) as parts:
        run = Run(args, *parts)
        print(f"{args.subscribers} subscribers on 3 nodes, 3 publishers with {args.rate:g}/s each, {len(CHANNELS)} channels, "
              f"appendfsync {args.fsync}, load {os.getloadavg()[0]:.1f}, {BINARY}\npartition: {parts[3].about}", flush=True)
        await run.start()
        scenarios = {"node": run.node, "redis": run.redis_, "full": run.full, "partition": run.partition, "rolling": run.rolling,
                     "upgrade": run.upgrade}
        for fault in args.faults.split(",") * args.rounds:
            await run.spread()
            await asyncio.sleep(1)
            run.late = 0.0
            figures = await scenarios[fault]()
            settled = await run.settle()
            print(f"{fault}: {figures}; all delivered {settled:.2f} s after the last answer", flush=True)
            if run.record.faults:
                break
        print(run.figures(), f"in {time.monotonic() - began:.0f} s")
        for task in run.tasks:
            task.cancel()
        await asyncio.gather(*run.tasks, return_exceptions=True)
        if run.record.faults:
            raise RuntimeError("\n".join(run.record.faults))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        asyncio.run(main())
    except RuntimeError as error:
        sys.exit(f"FAILED: {error}")
