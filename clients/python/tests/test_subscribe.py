"""Subscriptions: start position, gaps, tokens, end."""

import asyncio
import json
import time
import uuid
from dataclasses import replace

from websockets.asyncio.server import serve

from lastmile import Gap, LastmileError, Position, Publisher, connect

from .support import FAST_TIMING, ChannelTestCase, Gateway, Proxy, take, wait_until, with_timeout


def setUpModule():
    global gateway
    gateway = Gateway()


def tearDownModule():
    gateway.close()


class Subscribe(ChannelTestCase):
    async def asyncSetUp(self):
        await super().asyncSetUp()
        self.publisher = Publisher(gateway.publish_url, gateway.key, timing=FAST_TIMING)
        self.client = connect(gateway.url, timing=FAST_TIMING)

    async def asyncTearDown(self):
        await self.publisher.close()
        await self.client.close()

    async def test_backlog_and_since(self):
        results = await self.publisher.publish_many(self.channel, range(10))
        for options, expected in [
            ({"backlog": 3}, [7, 8, 9]),
            ({"backlog": 100}, list(range(10))),
            ({"since": Position(results[4].epoch, results[4].offset)}, [5, 6, 7, 8, 9]),
        ]:
            async with self.client.subscribe(self.channel, **options) as subscription:
                received = await take(subscription, len(expected))
                self.assertEqual([one.data for one in received], expected)
                self.assertEqual([one.gap for one in received], [None] * len(received))
                self.assertEqual(subscription.position, received[-1].position)
        async with self.client.subscribe(self.channel) as subscription:
            await with_timeout(subscription.ready())
            await self.publisher.publish(self.channel, "new")
            self.assertEqual([one.data for one in await take(subscription, 1)], ["new"])

    async def test_one_subscription_per_channel(self):
        first = self.client.subscribe(self.channel)
        with self.assertRaises(LastmileError) as refused:
            self.client.subscribe(self.channel)
        self.assertEqual(refused.exception.code, "already_subscribed")
        await with_timeout(first.ready())
        first.unsubscribe()
        with self.assertRaises(StopAsyncIteration):
            await with_timeout(first.__anext__())
        second = self.client.subscribe(self.channel)
        await with_timeout(second.ready())
        await self.publisher.publish(self.channel, 1)
        self.assertEqual([one.data for one in await take(second, 1)], [1])

    async def test_gap_of_short_backlog(self):
        channel = f"short.{uuid.uuid4()}"
        results = await self.publisher.publish_many(channel, range(20))
        gaps = []

        def on_gap(gap):
            gaps.append(gap)
            raise RuntimeError("of the application")

        since = Position(results[4].epoch, results[4].offset)
        subscription = self.client.subscribe(channel, since=since, on_gap=on_gap)
        with self.assertLogs("lastmile"):
            received = await take(subscription, 5)
        self.assertEqual([one.data for one in received], [15, 16, 17, 18, 19])
        self.assertEqual([one.gap for one in received], [Gap("history_lost", since)] + [None] * 4)
        self.assertEqual((gaps, subscription.recovered), ([Gap("history_lost", since)], False))

    async def test_gap_of_new_epoch(self):
        await self.publisher.publish_many(self.channel, range(3))
        since = Position("another", 7)
        received = await take(self.client.subscribe(self.channel, since=since), 1)
        self.assertEqual(received[0].gap, Gap("history_lost", since))

    async def test_full_buffer_pauses(self):
        subscription = self.client.subscribe(self.channel, buffer=10)
        await with_timeout(subscription.ready())
        await self.publisher.publish_many(self.channel, range(500))
        await asyncio.sleep(0.1)
        self.assertLessEqual(len(subscription._inbox), 10)
        received = await take(subscription, 500)
        self.assertEqual([(one.data, one.gap) for one in received], [(n, None) for n in range(500)])

    async def test_full_buffer_drops_oldest(self):
        subscription = self.client.subscribe(self.channel, buffer=10, overflow="drop_oldest")
        await with_timeout(subscription.ready())
        results = await self.publisher.publish_many(self.channel, range(100))
        await wait_until(lambda: subscription.position.offset == 100)
        received = await take(subscription, 10)
        self.assertEqual([one.data for one in received], list(range(90, 100)))
        self.assertEqual(received[0].gap, Gap("overflow", Position(results[0].epoch, 0)))

    async def test_refusal_keeps_connection(self):
        other = self.client.subscribe(self.channel)
        for channel, code in [("members.1", "unauthenticated"), ("$internal", "channel_invalid")]:
            with self.assertRaises(LastmileError) as refused:
                await take(self.client.subscribe(channel), 1)
            self.assertIn(refused.exception.code, (code, "forbidden"))
            with self.assertRaises(LastmileError):
                await with_timeout(self.client.subscribe(channel).ready())
        await self.publisher.publish(self.channel, 1)
        self.assertEqual(self.client.state, "connected")
        await take(other, 1)

    async def test_token_sources(self):
        async def later():
            return gateway.token()

        for token in (gateway.token(), gateway.token, later, lambda: later()):
            async with connect(gateway.url, token, timing=FAST_TIMING) as client:
                await with_timeout(client.subscribe("members.1").ready())

    async def test_token_refresh(self):
        asked = []
        # A tenth of its lifetime is left for the refresh, so the fresh token is made beforehand.
        fresh, first = gateway.token(), gateway.token(expires="12s")
        over = time.monotonic() + 12

        def token():
            asked.append(1)
            return first if len(asked) == 1 else fresh

        async with Proxy(gateway.url) as proxy, connect(proxy.url, token, timing=FAST_TIMING) as client:
            subscription = client.subscribe("members.2")
            await with_timeout(subscription.ready())
            await wait_until(lambda: len(asked) == 2)
            # The gateway checks expiry every second.
            await asyncio.sleep(over + 1.5 - time.monotonic())
            self.assertEqual((client.state, proxy.connections, len(asked)), ("connected", 1, 2))

    async def test_expired_token_reconnects(self):
        asked = []

        def token():
            asked.append(1)
            if len(asked) == 2:
                raise OSError("the service is away")
            return gateway.token(expires="5s" if len(asked) == 1 else "1h")

        async with Proxy(gateway.url) as proxy, connect(proxy.url, token, timing=FAST_TIMING) as client:
            subscription = client.subscribe("members.3")
            await with_timeout(subscription.ready())
            with self.assertLogs("lastmile"):  # the failed refresh
                await wait_until(lambda: proxy.connections == 2 and client.state == "connected")
            await self.publisher.publish("members.3", "on")
            self.assertEqual([one.data for one in await take(subscription, 1)], ["on"])

    async def test_final_close_ends_client(self):
        async with connect(gateway.url, "no token", timing=FAST_TIMING) as client:
            with self.assertRaises(LastmileError) as ended:
                await take(client.subscribe(self.channel), 1)
            self.assertEqual((ended.exception.code, ended.exception.temporary), ("unauthenticated", False))
            self.assertEqual((client.state, client.error.status), ("failed", 4501))
            with self.assertRaises(LastmileError):
                await with_timeout(client.reply(self.channel, "x", 1))

    async def test_nonsense_tokens_are_retried(self):
        for nonsense in ("<!doctype html>", "<title>Fehler – später</title>", 17, "a.b.c"):
            answers = [nonsense, nonsense, gateway.token()]
            async with connect(gateway.url, lambda: answers.pop(0), timing=FAST_TIMING) as client:
                await with_timeout(client.subscribe("members.4").ready())
                self.assertEqual(answers, [])

    async def test_nothing_but_nonsense_ends_client(self):
        asked = []
        async with connect(gateway.url, lambda: asked.append(1) or "<!doctype html>", timing=FAST_TIMING) as client:
            with self.assertRaises(LastmileError) as ended:
                await with_timeout(client.subscribe(self.channel).ready())
            self.assertEqual((ended.exception.code, len(asked), client.state), ("unauthenticated", 3, "failed"))

    async def test_silent_token_function_is_called_again(self):
        asked = []

        async def token():
            asked.append(1)
            if len(asked) < 3:
                await asyncio.Event().wait()
            return gateway.token()

        async with connect(gateway.url, token, timing=replace(FAST_TIMING, open=1.0)) as client:
            await with_timeout(client.subscribe("members.5").ready())
        self.assertEqual(len(asked), 3)

    async def test_reconnects_keep_the_token(self):
        asked = []

        def token():
            asked.append(1)
            return gateway.token()

        async with Proxy(gateway.url) as proxy, connect(proxy.url, token, timing=FAST_TIMING) as client:
            await with_timeout(client.subscribe("members.6").ready())
            for n in range(3):
                proxy.disconnect()
                await wait_until(lambda: proxy.connections == n + 2 and client.state == "connected")
            self.assertEqual(len(asked), 1)

    async def test_token_error_ends_client(self):
        def token():
            raise LastmileError("unauthenticated", "signed out")

        async with connect(gateway.url, token, timing=FAST_TIMING) as client:
            with self.assertRaises(LastmileError) as ended:
                await with_timeout(client.subscribe(self.channel).ready())
            self.assertEqual(ended.exception.message, "signed out")

    async def test_degraded_and_unknown_frames(self):
        async def handle(socket):
            async for text in socket:
                command = json.loads(text)
                if command["type"] == "subscribe":
                    subscribed = {"type": "subscribed", "id": command["id"], "epoch": "k", "offset": 0, "recovered": False}
                    frames = [subscribed, {"type": "degraded"}, {"type": "unknown-type"}]
                    frames += [{"type": "message", "message_id": "k-1", "epoch": "k", "offset": 1, "data": 1,
                                "time": "2026-11-21T09:00:00.123Z", "publisher": "p"}]
                elif command["type"] == "unsubscribe":
                    frames = [{"type": "restored"}]
                else:
                    frames = [{"type": "welcome", "connection": "c-1", "ping_secs": 25, "principal": None}]
                for frame in frames:
                    await socket.send(json.dumps({"channel": "c", **frame}))

        async with serve(handle, "127.0.0.1", 0, subprotocols=["lastmile.v1"]) as server:
            port = server.sockets[0].getsockname()[1]
            async with connect(f"http://127.0.0.1:{port}", timing=FAST_TIMING) as client:
                subscription = client.subscribe("c")
                self.assertEqual([one.data for one in await take(subscription, 1)], [1])
                self.assertTrue(subscription.degraded)
                client.send_unsubscribe(subscription)
                await wait_until(lambda: not subscription.degraded)

    async def test_compression(self):
        subscription = self.client.subscribe(self.channel)
        await with_timeout(subscription.ready())
        await self.publisher.publish(self.channel, ["again"] * 1000)
        self.assertEqual((await take(subscription, 1))[0].data, ["again"] * 1000)
        self.assertEqual([one.name for one in self.client._socket.protocol.extensions], ["permessage-deflate"])

    async def test_close_ends_iterators(self):
        subscription = self.client.subscribe(self.channel)
        await with_timeout(subscription.ready())
        waiting = asyncio.create_task(subscription.__anext__())
        await asyncio.sleep(0)
        await self.client.close()
        with self.assertRaises(StopAsyncIteration):
            await with_timeout(waiting)
        with self.assertRaises(LastmileError) as refused:
            await with_timeout(self.client.subscribe(self.channel).ready())
        self.assertEqual(refused.exception.code, "closed")
