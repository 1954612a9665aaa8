"""Listening: from where, until when, and what is told."""

import asyncio
import json
import time
import uuid

from websockets.asyncio.server import serve

from lastmile import Gap, LastmileError, Position, Publisher, connect

from .support import QUICK, Case, Gateway, Proxy, eventually, take, within


def setUpModule():
    global gateway
    gateway = Gateway()


def tearDownModule():
    gateway.close()


class Subscribe(Case):
    async def asyncSetUp(self):
        await super().asyncSetUp()
        self.publisher = Publisher(gateway.publish_url, gateway.key, timing=QUICK)
        self.client = connect(gateway.url, timing=QUICK)

    async def asyncTearDown(self):
        await self.publisher.close()
        await self.client.close()

    async def test_it_begins_now_with_a_backlog_or_behind_a_position(self):
        places = await self.publisher.publish_many(self.channel, range(10))
        for options, expected in [
            ({"backlog": 3}, [7, 8, 9]),
            ({"backlog": 100}, list(range(10))),
            ({"since": Position(places[4].epoch, places[4].offset)}, [5, 6, 7, 8, 9]),
        ]:
            async with self.client.subscribe(self.channel, **options) as subscription:
                got = await take(subscription, len(expected))
                self.assertEqual([one.data for one in got], expected)
                self.assertEqual([one.gap for one in got], [None] * len(got))
                self.assertEqual(subscription.position, got[-1].position)
        async with self.client.subscribe(self.channel) as subscription:
            await within(subscription.ready())
            await self.publisher.publish(self.channel, "new")
            self.assertEqual([one.data for one in await take(subscription, 1)], ["new"])

    async def test_a_channel_has_one_subscription_and_after_it_another(self):
        first = self.client.subscribe(self.channel)
        with self.assertRaises(LastmileError) as refused:
            self.client.subscribe(self.channel)
        self.assertEqual(refused.exception.code, "already_subscribed")
        await within(first.ready())
        first.unsubscribe()
        with self.assertRaises(StopAsyncIteration):
            await within(first.__anext__())
        second = self.client.subscribe(self.channel)
        await within(second.ready())
        await self.publisher.publish(self.channel, 1)
        self.assertEqual([one.data for one in await take(second, 1)], [1])

    async def test_what_a_short_backlog_lost_is_told(self):
        channel = f"short.{uuid.uuid4()}"
        places = await self.publisher.publish_many(channel, range(20))
        gaps = []

        def on_gap(gap):
            gaps.append(gap)
            raise RuntimeError("of the application")

        since = Position(places[4].epoch, places[4].offset)
        subscription = self.client.subscribe(channel, since=since, on_gap=on_gap)
        with self.assertLogs("lastmile"):
            got = await take(subscription, 5)
        self.assertEqual([one.data for one in got], [15, 16, 17, 18, 19])
        self.assertEqual([one.gap for one in got], [Gap("history_lost", since)] + [None] * 4)
        self.assertEqual((gaps, subscription.recovered), ([Gap("history_lost", since)], False))

    async def test_another_epoch_is_told(self):
        await self.publisher.publish_many(self.channel, range(3))
        since = Position("another", 7)
        got = await take(self.client.subscribe(self.channel, since=since), 1)
        self.assertEqual(got[0].gap, Gap("history_lost", since))

    async def test_a_full_buffer_pauses_and_loses_nothing(self):
        subscription = self.client.subscribe(self.channel, buffer=10)
        await within(subscription.ready())
        await self.publisher.publish_many(self.channel, range(500))
        await asyncio.sleep(0.1)
        self.assertLessEqual(len(subscription._inbox), 10)
        got = await take(subscription, 500)
        self.assertEqual([(one.data, one.gap) for one in got], [(n, None) for n in range(500)])

    async def test_a_full_buffer_drops_the_oldest_if_that_is_wanted_and_says_so(self):
        subscription = self.client.subscribe(self.channel, buffer=10, overflow="drop_oldest")
        await within(subscription.ready())
        places = await self.publisher.publish_many(self.channel, range(100))
        await eventually(lambda: subscription.position.offset == 100)
        got = await take(subscription, 10)
        self.assertEqual([one.data for one in got], list(range(90, 100)))
        self.assertEqual(got[0].gap, Gap("overflow", Position(places[0].epoch, 0)))

    async def test_refusals_end_the_subscription_and_not_the_connection(self):
        other = self.client.subscribe(self.channel)
        for channel, code in [("members.1", "unauthenticated"), ("$internal", "channel_invalid")]:
            with self.assertRaises(LastmileError) as refused:
                await take(self.client.subscribe(channel), 1)
            self.assertIn(refused.exception.code, (code, "forbidden"))
            with self.assertRaises(LastmileError):
                await within(self.client.subscribe(channel).ready())
        await self.publisher.publish(self.channel, 1)
        self.assertEqual(self.client.state, "connected")
        await take(other, 1)

    async def test_tokens_come_from_functions_of_both_kinds(self):
        async def later():
            return gateway.token()

        for token in (gateway.token(), gateway.token, later, lambda: later()):
            async with connect(gateway.url, token, timing=QUICK) as client:
                await within(client.subscribe("members.1").ready())

    async def test_a_token_that_runs_out_is_renewed_on_the_same_connection(self):
        asked = []
        # There is a tenth of its time for the other one, which is made before.
        fresh, first = gateway.token(), gateway.token(expires="12s")
        over = time.monotonic() + 12

        def token():
            asked.append(1)
            return first if len(asked) == 1 else fresh

        async with Proxy(gateway.url) as proxy, connect(proxy.url, token, timing=QUICK) as client:
            subscription = client.subscribe("members.2")
            await within(subscription.ready())
            await eventually(lambda: len(asked) == 2)
            # The gateway looks each second.
            await asyncio.sleep(over + 1.5 - time.monotonic())
            self.assertEqual((client.state, proxy.connections, len(asked)), ("connected", 1, 2))

    async def test_a_token_that_ran_out_brings_a_new_connection(self):
        asked = []

        def token():
            asked.append(1)
            if len(asked) == 2:
                raise OSError("the service is away")
            return gateway.token(expires="5s" if len(asked) == 1 else "1h")

        async with Proxy(gateway.url) as proxy, connect(proxy.url, token, timing=QUICK) as client:
            subscription = client.subscribe("members.3")
            await within(subscription.ready())
            with self.assertLogs("lastmile"):  # of the renewal that failed
                await eventually(lambda: proxy.connections == 2 and client.state == "connected")
            await self.publisher.publish("members.3", "on")
            self.assertEqual([one.data for one in await take(subscription, 1)], ["on"])

    async def test_a_final_close_ends_the_client(self):
        async with connect(gateway.url, "no token", timing=QUICK) as client:
            with self.assertRaises(LastmileError) as ended:
                await take(client.subscribe(self.channel), 1)
            self.assertEqual((ended.exception.code, ended.exception.temporary), ("unauthenticated", False))
            self.assertEqual((client.state, client.error.status), ("failed", 4501))
            with self.assertRaises(LastmileError):
                await within(client.reply(self.channel, "x", 1))

    async def test_an_application_that_is_signed_out_ends_the_client(self):
        def token():
            raise LastmileError("unauthenticated", "signed out")

        async with connect(gateway.url, token, timing=QUICK) as client:
            with self.assertRaises(LastmileError) as ended:
                await within(client.subscribe(self.channel).ready())
            self.assertEqual(ended.exception.message, "signed out")

    async def test_a_node_that_is_cut_off_is_told_and_what_is_not_known_is_passed_over(self):
        async def play(socket):
            async for text in socket:
                command = json.loads(text)
                if command["type"] == "subscribe":
                    told = {"type": "subscribed", "id": command["id"], "epoch": "k", "offset": 0, "recovered": False}
                    frames = [told, {"type": "degraded"}, {"type": "news of next year"}]
                    frames += [{"type": "message", "message_id": "k-1", "epoch": "k", "offset": 1, "data": 1,
                                "time": "2026-11-21T09:00:00.123Z", "publisher": "p"}]
                elif command["type"] == "unsubscribe":
                    frames = [{"type": "restored"}]
                else:
                    frames = [{"type": "welcome", "connection": "c-1", "ping_secs": 25, "principal": None}]
                for frame in frames:
                    await socket.send(json.dumps({"channel": "c", **frame}))

        async with serve(play, "127.0.0.1", 0, subprotocols=["lastmile.v1"]) as server:
            port = server.sockets[0].getsockname()[1]
            async with connect(f"http://127.0.0.1:{port}", timing=QUICK) as client:
                subscription = client.subscribe("c")
                self.assertEqual([one.data for one in await take(subscription, 1)], [1])
                self.assertTrue(subscription.degraded)
                client.send_unsubscribe(subscription)
                await eventually(lambda: not subscription.degraded)

    async def test_large_publications_come_compressed_and_whole(self):
        subscription = self.client.subscribe(self.channel)
        await within(subscription.ready())
        await self.publisher.publish(self.channel, ["again"] * 1000)
        self.assertEqual((await take(subscription, 1))[0].data, ["again"] * 1000)
        self.assertEqual([one.name for one in self.client._socket.protocol.extensions], ["permessage-deflate"])

    async def test_close_ends_every_loop(self):
        subscription = self.client.subscribe(self.channel)
        await within(subscription.ready())
        waiting = asyncio.create_task(subscription.__anext__())
        await asyncio.sleep(0)
        await self.client.close()
        with self.assertRaises(StopAsyncIteration):
            await within(waiting)
        with self.assertRaises(LastmileError) as refused:
            await within(self.client.subscribe(self.channel).ready())
        self.assertEqual(refused.exception.code, "closed")
