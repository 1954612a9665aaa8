#!/usr/bin/env python3
"""Simulates power loss of the Redis machine and counts the acknowledged publications that are lost.

Redis is killed under load. Its append-only file is truncated to the bytes that an fsync had made durable (observed with
strace), followed by nothing, a part of a command, or zeros. Exits with 1 if a loss was acknowledged before the last durable
write, if `always` lost anything, or if a loss was not reported to a subscriber.

    power.py [--fsync always,everysec] [--rounds 6]
"""

import argparse
import asyncio
import os
import random
import re
import shutil
import subprocess
import sys
import time

from clients import Publisher, Record, Subscriber
from env import REDIS_SERVER, Redis, cluster_env, wait_until

CHANNELS = ["c0", "c1", "c2"]
TAIL_KINDS = ["nothing", "a torn command", "zeros"]


class TimedPublisher(Publisher):
    def __init__(self, *args):
        super().__init__(*args)
        self.ack_moments = {}  # data -> moment of its acknowledgement

    def on_message(self, message):
        super().on_message(message)
        if message["type"] == "published":
            self.ack_moments[message["id"]] = time.monotonic()


class Disk:
    """Traces which bytes of the append-only file an fsync has made durable."""

    def __init__(self, redis):
        self.path = next(iter([*redis.folder.glob("appendonlydir/*.incr.aof"), *redis.folder.glob("appendonly.aof")]))
        self.log = redis.folder / "trace"
        self.process = subprocess.Popen(
            ["strace", "-f", "-qq", "-ttt", "-e", "signal=none", "-e", "trace=write,fdatasync,fsync", "-P", str(self.path),
             "-o", str(self.log), "-p", str(redis.process.pid)], stderr=subprocess.DEVNULL)
        wait_until("strace", lambda: self.log.exists() and "fdatasync" in self.log.read_text())

    def unsynced(self):
        """Returns the number of bytes that no fsync covers, and the time of the last durable write. To be called after Redis
        has ended."""
        self.process.wait(timeout=90)
        # While an fsync is pending, Redis may delay its write and acknowledge nevertheless.
        written, durable, begun = (0, 0.0), (0, 0.0), {}
        for line in self.log.read_text().splitlines():
            thread, at, call = line.split(maxsplit=2)
            if done := re.match(r"(?:write\(|<\.\.\. write resumed).*= (\d+)$", call):
                written = written[0] + int(done[1]), float(at)
            elif re.match(r"fd?a?t?a?sync\(.*<unfinished", call):
                begun[thread] = written
            elif re.match(r"fd?a?t?a?sync\(.*= 0$", call):
                durable = written
            elif re.match(r"<\.\.\. fd?a?t?a?sync resumed.*= 0$", call):
                durable = begun.pop(thread, durable)
        return written[0] - durable[0], durable[1]

    def truncate(self, tail_kind):
        unsynced, began = self.unsynced()
        durable = self.path.stat().st_size - unsynced
        with open(self.path, "r+b") as file:
            file.truncate(durable)
            if tail_kind == "a torn command":
                file.seek(durable)
                file.write(b"*3\r\n$4\r\nHSET\r\n$12\r\nlast")
            elif tail_kind == "zeros":
                file.truncate(durable + 4096)
        return unsynced, began


def read_surviving(redis):
    """Starts Redis on a copy of the files. Returns the publications that it has, and whether the files needed a repair."""
    copy = Redis(redis.folder.with_name(redis.folder.name + "-copy"), redis.hosts, redis.fsync)
    shutil.copytree(redis.folder, copy.folder)
    try:
        is_repaired = False
        try:
            copy.start()
        except RuntimeError:
            # Redis refuses to start with a damaged file.
            is_repaired = True
            for folder in (copy.folder, redis.folder):
                manifest = next(iter([*folder.glob("appendonlydir/*.manifest"), *folder.glob("appendonly.aof")]))
                subprocess.run(["redis-check-aof", "--fix", str(manifest)], input=b"y\n", stdout=subprocess.DEVNULL, check=True)
            copy.start()
        values = "".join(
            subprocess.run(["redis-cli", "-p", str(copy.port), "XRANGE", f"lastmile:{{/{channel}}}:log", "-", "+"],
                           capture_output=True, text=True, check=True).stdout for channel in CHANNELS)
        return set(re.findall(r"\b\d-\d+\b(?=\W*$)", values, re.MULTILINE)), is_repaired
    finally:
        copy.kill()
        shutil.rmtree(copy.folder, ignore_errors=True)


async def lose_power(fsync, tail_kind):
    async with cluster_env(fsync) as (redis, nodes, key, _):
        record = Record()
        subscribers = [Subscriber(record, nodes, at % 3, CHANNELS[at // 3]) for at in range(9)]
        publishers = [TimedPublisher(record, nodes, at, CHANNELS, key, 150) for at in range(3)]
        tasks = [asyncio.create_task(one.run()) for one in [*subscribers, *publishers]]

        async def until(description, condition, secs=90):
            deadline = time.monotonic() + secs
            while not condition():
                if time.monotonic() > deadline:
                    raise RuntimeError(f"waited {secs} s for {description}")
                await asyncio.sleep(0.02)

        await until("all to begin", lambda: all(one.is_connected for one in subscribers) and all(one.ack_times for one in publishers))
        disk = await asyncio.to_thread(Disk, redis)
        await asyncio.sleep(random.uniform(1, 3.5))
        redis.kill()
        killed, killed_at = time.monotonic(), time.time()
        unsynced, synced = disk.truncate(tail_kind)
        surviving, is_repaired = await asyncio.to_thread(read_surviving, redis)
        # Wait for the deliveries in flight.
        before = -1
        while record.deliveries != before:
            before = record.deliveries
            await asyncio.sleep(0.5)
        ack_moments = {data: moment for one in publishers for data, moment in one.ack_moments.items()}
        lost = {data: killed - moment for data, moment in ack_moments.items() if data not in surviving}
        # Subscribers that received a lost publication cannot recover, and others of that channel may not: its epoch may change.
        ahead = [one for one in subscribers if record.delivered[one.channel].get((one.epoch, one.offset)) not in surviving]
        affected_channels = {record.acknowledged[data][0] for data in lost} | {one.channel for one in ahead}
        await asyncio.to_thread(redis.start)
        began = time.monotonic()
        await until("acknowledgements", lambda: all(one.first_ack_after(began) for one in publishers))
        is_reported = lambda: all(one.is_connected for one in subscribers) and not any(one.is_complete for one in ahead)
        await until("losses to be reported", is_reported)
        for one in publishers:
            one.is_enabled = False
        await asyncio.sleep(0.5)
        for one in subscribers:
            if not one.is_complete and one.channel not in affected_channels:
                record.add_failure(f"{one.channel}: a loss was reported, but nothing was lost")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        oldest = max(lost.values(), default=0)
        age = killed_at - synced + 0.01  # The two clocks are not read at the same instant.
        if oldest > age or (lost and fsync == "always"):
            record.add_failure(f"{len(lost)} lost, oldest {oldest:.2f} s before the kill, last durable write {age:.2f} s before")
        if record.failures:
            raise RuntimeError("\n".join(record.failures))
        notified = sum(not one.is_complete for one in subscribers)
        print(f"{fsync}, then {tail_kind}: {unsynced} bytes were not durable; of {len(ack_moments)} acknowledged {len(lost)} lost, "
              f"oldest {oldest:.2f} s before the kill, last durable write {killed_at - synced:.2f} s before; reported to {notified} "
              f"of {len(subscribers)} subscribers{', the file was repaired' if is_repaired else ''}", flush=True)
        return len(ack_moments), len(lost), oldest


async def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fsync", default="always,everysec")
    parser.add_argument("--rounds", type=int, default=6, help="rounds for each value of --fsync")
    args = parser.parse_args()
    for fsync in args.fsync.split(","):
        rounds = [await lose_power(fsync, TAIL_KINDS[at % len(TAIL_KINDS)]) for at in range(args.rounds)]
        acknowledged, lost, oldest = (list(column) for column in zip(*rounds))
        print(f"{fsync}, {args.rounds} power losses, load {os.getloadavg()[0]:.1f}, {REDIS_SERVER}: {sum(acknowledged)} acknowledged, "
              f"{sum(lost)} lost, oldest {max(oldest):.2f} s before the kill", flush=True)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except RuntimeError as error:
        sys.exit(f"FAILED: {error}")
