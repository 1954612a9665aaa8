"""The publishing WebSocket: receipts, the window, replies, events."""

import asyncio

from lastmile import LastmileError, Principal, Publisher, connect

from .support import QUICK, Case, Gateway, Proxy, take, within


def setUpModule():
    global gateway
    gateway = Gateway()


def tearDownModule():
    gateway.close()


class WithBoth(Case):
    async def asyncSetUp(self):
        await super().asyncSetUp()
        self.publisher = Publisher(gateway.publish_url, gateway.key, timing=QUICK)
        self.client = connect(gateway.url, gateway.token, timing=QUICK)

    async def asyncTearDown(self):
        await self.publisher.close()
        await self.client.close()


class Stream(WithBoth):
    async def test_a_thousand_are_sent_and_each_has_its_receipt(self):
        subscription = self.client.subscribe(self.channel)
        await within(subscription.ready())
        receipts = [await self.publisher.send(self.channel, {"n": n}) for n in range(1000)]
        places = [await within(receipt) for receipt in receipts]
        self.assertEqual([place.offset for place in places], list(range(1, 1001)))
        got = await take(subscription, 1000)
        self.assertEqual([(one.data["n"], one.message_id) for one in got], [(n, p.message_id) for n, p in enumerate(places)])

    async def test_bytes_and_text_arrive_as_they_were(self):
        subscription = self.client.subscribe(self.channel)
        await within(subscription.ready())
        data = [b"\x00\xff", "text", "é\u2028", [1, {"a": None}], False]
        for one in data:
            await self.publisher.send(self.channel, one)
        self.assertEqual([one.data for one in await take(subscription, len(data))], data)

    async def test_refusals_come_with_the_receipt_and_with_flush_if_nobody_asked(self):
        narrow = Publisher(gateway.publish_url, gateway.narrow_key, timing=QUICK)
        awaited = await narrow.send(self.channel, 1)
        with self.assertRaises(LastmileError) as refused:
            await within(awaited)
        self.assertEqual(refused.exception.code, "channel_forbidden")
        await within(narrow.flush())
        await narrow.send("narrow.1", 1)
        await narrow.send(self.channel, 2)
        with self.assertRaises(LastmileError) as refused:
            await within(narrow.flush())
        self.assertEqual(refused.exception.code, "channel_forbidden")
        await narrow.send(self.channel, 3)
        with self.assertRaises(LastmileError):
            async with narrow:
                pass

    async def test_the_window_bounds_what_has_no_answer(self):
        async with Proxy(gateway.publish_url) as proxy:
            publisher = Publisher(proxy.url, gateway.key, timing=QUICK, window=10)
            await within(await publisher.send(self.channel, 0))
            proxy.hold.clear()
            receipts = [await publisher.send(self.channel, n) for n in range(10)]
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(publisher.send(self.channel, 10), 0.2)
            proxy.hold.set()
            receipts.append(await within(publisher.send(self.channel, 10)))
            self.assertEqual([(await within(one)).offset for one in receipts], list(range(2, 13)))
            await publisher.close()

    async def test_a_key_that_is_not_known_ends_the_stream_for_good(self):
        stranger = Publisher(gateway.publish_url, gateway.keygen(f"stranger-{self.channel}.key")[0])
        for _ in range(2):
            with self.assertRaises(LastmileError) as refused:
                await within(stranger.send(self.channel, 1))
            self.assertEqual((refused.exception.code, refused.exception.status), ("key_unknown", 401))
        self.assertEqual(stranger.state, "failed")
        with self.assertRaises(LastmileError):
            await within(stranger.watch(self.channel).__anext__())
        await stranger.close()

    async def test_after_close_nothing_is_sent_and_nobody_waits(self):
        replies, watch = self.publisher.replies(), self.publisher.watch(self.channel)
        await within(await self.publisher.send(self.channel, 1))
        await self.publisher.close()
        with self.assertRaises(LastmileError) as refused:
            await self.publisher.send(self.channel, 2)
        self.assertEqual(refused.exception.code, "closed")
        for source in (replies, watch):
            with self.assertRaises(StopAsyncIteration):
                while True:
                    await within(source.__anext__())


class Replies(WithBoth):
    async def test_a_reply_is_received_and_another_one_is_answered(self):
        subscription = self.client.subscribe(self.channel)
        await within(subscription.ready())
        replies = self.publisher.replies()
        place = await within(await self.publisher.send(self.channel, "a question"))
        [message] = await take(subscription, 1)
        replied = asyncio.create_task(self.client.reply(self.channel, message.message_id, {"text": "yes"}))
        [reply] = await take(replies, 1)
        self.assertFalse(replied.done())
        self.assertEqual((reply.channel, reply.to, reply.data), (self.channel, place.message_id, {"text": "yes"}))
        self.assertEqual(reply.principal, Principal("https://app.example", "alice"))
        await within(reply.received())
        await within(replied)

        asked = asyncio.create_task(self.client.ask(self.channel, message.message_id, "a ticket?"))
        [reply] = await take(replies, 1)
        await within(reply.answer({"ticket": 17}))
        self.assertEqual(await within(asked), {"ticket": 17})
        with self.assertRaises(LastmileError) as refused:
            await within(reply.answer("again"))
        self.assertEqual(refused.exception.code, "reply_unknown")

    async def test_a_reply_that_is_not_known_is_refused_as_such(self):
        subscription = self.client.subscribe(self.channel)
        await within(subscription.ready())
        with self.assertRaises(LastmileError) as refused:
            await within(self.client.reply(self.channel, "nothing-1", 1))
        self.assertEqual(refused.exception.code, "message_unknown")
        with self.assertRaises(LastmileError) as refused:
            await within(self.client.reply("elsewhere", "nothing-1", 1))
        self.assertEqual(refused.exception.code, "not_subscribed")

    async def test_a_reply_survives_a_cut_before_it_was_confirmed(self):
        subscription = self.client.subscribe(self.channel)
        await within(subscription.ready())
        async with Proxy(gateway.publish_url) as proxy:
            publisher = Publisher(proxy.url, gateway.key, timing=QUICK)
            replies = publisher.replies()
            place = await within(await publisher.send(self.channel, "a question"))
            asked = asyncio.create_task(self.client.ask(self.channel, place.message_id, "a ticket?"))
            [reply] = await take(replies, 1)
            proxy.cut()
            while True:
                try:
                    await within(reply.answer(17))
                    break
                except LastmileError as error:
                    # It comes again, to whoever has not said that it arrived.
                    self.assertIn(error.code, ("connection_lost", "reply_unknown"))
                    await asyncio.sleep(0.05)
            self.assertEqual(await within(asked), 17)
            await publisher.close()


class Events(WithBoth):
    async def test_a_publisher_sees_who_comes_and_goes_also_after_a_cut(self):
        async with Proxy(gateway.publish_url) as proxy:
            publisher = Publisher(proxy.url, gateway.key, timing=QUICK)
            watch = publisher.watch(self.channel)
            [first] = await take(watch, 1)
            self.assertEqual((first.event, first.connections), ("watching", 0))
            subscription = self.client.subscribe(self.channel)
            [came] = await take(watch, 1)
            self.assertEqual((came.event, came.connections), ("subscribed", 1))
            self.assertEqual(came.principal, Principal("https://app.example", "alice"))
            proxy.cut()
            [again] = await take(watch, 1)
            self.assertEqual((again.event, again.connections), ("watching", 1))
            subscription.unsubscribe()
            [went] = await take(watch, 1)
            self.assertEqual((went.event, went.connections), ("unsubscribed", 0))
            with self.assertRaises(LastmileError):
                publisher.watch(self.channel)
            watch.close()
            await take(publisher.watch(self.channel), 1)
            await publisher.close()

    async def test_a_channel_that_is_not_ours_is_not_watched(self):
        narrow = Publisher(gateway.publish_url, gateway.narrow_key, timing=QUICK)
        with self.assertRaises(LastmileError) as refused:
            await take(narrow.watch(self.channel), 1)
        self.assertEqual(refused.exception.code, "channel_forbidden")
        await narrow.close()
