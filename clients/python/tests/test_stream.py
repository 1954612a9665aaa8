"""The publishing WebSocket: receipts, window, replies, presence events."""

import asyncio

from lastmile import LastmileError, Principal, Publisher, connect

from .support import FAST_TIMING, ChannelTestCase, Gateway, Proxy, take, with_timeout


def setUpModule():
    global gateway
    gateway = Gateway()


def tearDownModule():
    gateway.close()


class ClientAndPublisherTestCase(ChannelTestCase):
    async def asyncSetUp(self):
        await super().asyncSetUp()
        self.publisher = Publisher(gateway.publish_url, gateway.key, timing=FAST_TIMING)
        self.client = connect(gateway.url, gateway.token, timing=FAST_TIMING)

    async def asyncTearDown(self):
        await self.publisher.close()
        await self.client.close()


class Stream(ClientAndPublisherTestCase):
    async def test_receipts(self):
        subscription = self.client.subscribe(self.channel)
        await with_timeout(subscription.ready())
        receipts = [await self.publisher.send(self.channel, {"n": n}) for n in range(1000)]
        results = [await with_timeout(receipt) for receipt in receipts]
        self.assertEqual([result.offset for result in results], list(range(1, 1001)))
        received = await take(subscription, 1000)
        self.assertEqual([(one.data["n"], one.message_id) for one in received], [(n, p.message_id) for n, p in enumerate(results)])

    async def test_data_round_trip(self):
        subscription = self.client.subscribe(self.channel)
        await with_timeout(subscription.ready())
        data = [b"\x00\xff", "text", "é\u2028", [1, {"a": None}], False]
        for one in data:
            await self.publisher.send(self.channel, one)
        self.assertEqual([one.data for one in await take(subscription, len(data))], data)

    async def test_refusals_in_receipt_and_flush(self):
        narrow = Publisher(gateway.publish_url, gateway.narrow_key, timing=FAST_TIMING)
        awaited = await narrow.send(self.channel, 1)
        with self.assertRaises(LastmileError) as refused:
            await with_timeout(awaited)
        self.assertEqual(refused.exception.code, "channel_forbidden")
        await with_timeout(narrow.flush())
        await narrow.send("narrow.1", 1)
        await narrow.send(self.channel, 2)
        with self.assertRaises(LastmileError) as refused:
            await with_timeout(narrow.flush())
        self.assertEqual(refused.exception.code, "channel_forbidden")
        await narrow.send(self.channel, 3)
        with self.assertRaises(LastmileError):
            async with narrow:
                pass

    async def test_window_bounds_unanswered(self):
        async with Proxy(gateway.publish_url) as proxy:
            publisher = Publisher(proxy.url, gateway.key, timing=FAST_TIMING, window=10)
            await with_timeout(await publisher.send(self.channel, 0))
            proxy.may_forward.clear()
            receipts = [await publisher.send(self.channel, n) for n in range(10)]
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(publisher.send(self.channel, 10), 0.2)
            proxy.may_forward.set()
            receipts.append(await with_timeout(publisher.send(self.channel, 10)))
            self.assertEqual([(await with_timeout(one)).offset for one in receipts], list(range(2, 13)))
            await publisher.close()

    async def test_unknown_key_is_final(self):
        unknown_publisher = Publisher(gateway.publish_url, gateway.keygen(f"stranger-{self.channel}.key")[0])
        for _ in range(2):
            with self.assertRaises(LastmileError) as refused:
                await with_timeout(unknown_publisher.send(self.channel, 1))
            self.assertEqual((refused.exception.code, refused.exception.status), ("key_unknown", 401))
        self.assertEqual(unknown_publisher.state, "failed")
        with self.assertRaises(LastmileError):
            await with_timeout(unknown_publisher.watch(self.channel).__anext__())
        await unknown_publisher.close()

    async def test_close_ends_all_iterators(self):
        replies, watch = self.publisher.replies(), self.publisher.watch(self.channel)
        await with_timeout(await self.publisher.send(self.channel, 1))
        await self.publisher.close()
        with self.assertRaises(LastmileError) as refused:
            await self.publisher.send(self.channel, 2)
        self.assertEqual(refused.exception.code, "closed")
        for source in (replies, watch):
            with self.assertRaises(StopAsyncIteration):
                while True:
                    await with_timeout(source.__anext__())


class Replies(ClientAndPublisherTestCase):
    async def test_received_and_answer(self):
        subscription = self.client.subscribe(self.channel)
        await with_timeout(subscription.ready())
        replies = self.publisher.replies()
        result = await with_timeout(await self.publisher.send(self.channel, "a question"))
        [message] = await take(subscription, 1)
        replied = asyncio.create_task(self.client.reply(self.channel, message.message_id, {"text": "yes"}))
        [reply] = await take(replies, 1)
        self.assertFalse(replied.done())
        self.assertEqual((reply.channel, reply.to, reply.data), (self.channel, result.message_id, {"text": "yes"}))
        self.assertEqual(reply.principal, Principal("https://app.example", "alice"))
        await with_timeout(reply.received())
        await with_timeout(replied)

        asked = asyncio.create_task(self.client.ask(self.channel, message.message_id, "a ticket?"))
        [reply] = await take(replies, 1)
        await with_timeout(reply.answer({"ticket": 17}))
        self.assertEqual(await with_timeout(asked), {"ticket": 17})
        with self.assertRaises(LastmileError) as refused:
            await with_timeout(reply.answer("again"))
        self.assertEqual(refused.exception.code, "reply_unknown")

    async def test_unknown_reply_is_refused(self):
        subscription = self.client.subscribe(self.channel)
        await with_timeout(subscription.ready())
        with self.assertRaises(LastmileError) as refused:
            await with_timeout(self.client.reply(self.channel, "nothing-1", 1))
        self.assertEqual(refused.exception.code, "message_unknown")
        with self.assertRaises(LastmileError) as refused:
            await with_timeout(self.client.reply("elsewhere", "nothing-1", 1))
        self.assertEqual(refused.exception.code, "not_subscribed")

    async def test_unconfirmed_reply_survives_reconnect(self):
        subscription = self.client.subscribe(self.channel)
        await with_timeout(subscription.ready())
        async with Proxy(gateway.publish_url) as proxy:
            publisher = Publisher(proxy.url, gateway.key, timing=FAST_TIMING)
            replies = publisher.replies()
            result = await with_timeout(await publisher.send(self.channel, "a question"))
            asked = asyncio.create_task(self.client.ask(self.channel, result.message_id, "a ticket?"))
            [reply] = await take(replies, 1)
            proxy.disconnect()
            while True:
                try:
                    await with_timeout(reply.answer(17))
                    break
                except LastmileError as error:
                    # The gateway redelivers it until it is confirmed.
                    self.assertIn(error.code, ("connection_lost", "reply_unknown"))
                    await asyncio.sleep(0.05)
            self.assertEqual(await with_timeout(asked), 17)
            await publisher.close()


class Events(ClientAndPublisherTestCase):
    async def test_watch_across_reconnect(self):
        async with Proxy(gateway.publish_url) as proxy:
            publisher = Publisher(proxy.url, gateway.key, timing=FAST_TIMING)
            watch = publisher.watch(self.channel)
            [first] = await take(watch, 1)
            self.assertEqual((first.event, first.connections), ("watching", 0))
            subscription = self.client.subscribe(self.channel)
            [joined] = await take(watch, 1)
            self.assertEqual((joined.event, joined.connections), ("subscribed", 1))
            self.assertEqual(joined.principal, Principal("https://app.example", "alice"))
            proxy.disconnect()
            [again] = await take(watch, 1)
            self.assertEqual((again.event, again.connections), ("watching", 1))
            subscription.unsubscribe()
            [left] = await take(watch, 1)
            self.assertEqual((left.event, left.connections), ("unsubscribed", 0))
            with self.assertRaises(LastmileError):
                publisher.watch(self.channel)
            watch.close()
            await take(publisher.watch(self.channel), 1)
            await publisher.close()

    async def test_watch_forbidden_channel(self):
        narrow = Publisher(gateway.publish_url, gateway.narrow_key, timing=FAST_TIMING)
        with self.assertRaises(LastmileError) as refused:
            await take(narrow.watch(self.channel), 1)
        self.assertEqual(refused.exception.code, "channel_forbidden")
        await narrow.close()
