"""Lost connections and restarted gateways: each publication once and in order, and every gap reported."""

import asyncio
import random

from lastmile import LastmileError, Publisher, connect

from .support import FAST_TIMING, ChannelTestCase, Gateway, Proxy, SharedGateway, take, wait_until, with_timeout

DISK = """[engine]
kind = "disk"
path = "{folder}/engine.redb"
"""


async def disconnect_randomly(proxy, until):
    while not until.is_set():
        await asyncio.sleep(random.uniform(0.05, 0.3))
        proxy.disconnect()


class ConnectionLoss(ChannelTestCase, SharedGateway):
    async def test_subscriber_gets_each_once_in_order(self):
        gateway = self.gateway
        async with Proxy(gateway.url) as proxy, Publisher(gateway.publish_url, gateway.key) as publisher:
            async with connect(proxy.url, timing=FAST_TIMING) as client:
                subscription = client.subscribe(self.channel)
                await with_timeout(subscription.ready())
                done = asyncio.Event()
                disconnector = asyncio.create_task(disconnect_randomly(proxy, done))

                async def publish(start, end):
                    for n in range(start, end):
                        await publisher.send(self.channel, n)
                        if n % 20 == 0:
                            await asyncio.sleep(0.01)

                publishing = asyncio.create_task(publish(0, 2000))
                received = await take(subscription, 2000)
                await publishing
                # A fast machine may be done before the connection was lost often enough.
                while proxy.connections <= 3:
                    await publish(len(received), len(received) + 100)
                    received += await take(subscription, 100)
                done.set()
                await disconnector
        self.assertEqual([one.data for one in received], list(range(len(received))))
        self.assertEqual([one.offset for one in received], list(range(1, len(received) + 1)))
        self.assertEqual([one.gap for one in received if one.gap], [])

    async def test_receipts_match_what_was_published(self):
        gateway = self.gateway
        async with Proxy(gateway.publish_url) as proxy, connect(gateway.url, timing=FAST_TIMING) as client:
            subscription = client.subscribe(self.channel, buffer=10_000)
            await with_timeout(subscription.ready())
            publisher = Publisher(proxy.url, gateway.key, timing=FAST_TIMING)
            done = asyncio.Event()
            disconnector = asyncio.create_task(disconnect_randomly(proxy, done))
            receipts = []
            while len(receipts) < 2000 or proxy.connections <= 3:
                receipts.append(await with_timeout(publisher.send(self.channel, len(receipts))))
                if len(receipts) % 20 == 0:
                    await asyncio.sleep(0.01)
            done.set()
            await disconnector
            outcomes = await with_timeout(asyncio.gather(*receipts, return_exceptions=True))
            unknown = {n for n, one in enumerate(outcomes) if isinstance(one, LastmileError)}
            self.assertEqual({outcomes[n].code for n in unknown} - {"connection_lost"}, set())
            last = await publisher.publish(self.channel, "end")
            received = await take(subscription, last.offset)
            await publisher.close()
        there = [one.data for one in received[:-1]]
        self.assertEqual(there, sorted(set(there)), "once and in order")
        self.assertLessEqual(set(range(len(receipts))) - set(there), unknown)
        for n, result in enumerate(outcomes):
            if n not in unknown:
                self.assertEqual(received[result.offset - 1].data, n)

    async def test_retry_loses_nothing_and_keeps_order(self):
        gateway = self.gateway
        async with Proxy(gateway.publish_url) as proxy, connect(gateway.url, timing=FAST_TIMING) as client:
            subscription = client.subscribe(self.channel, buffer=5000)
            await with_timeout(subscription.ready())
            async with Publisher(proxy.url, gateway.key, timing=FAST_TIMING) as publisher:
                for n in range(200):
                    await with_timeout(publisher.send(self.channel, n, retry=True))
                    if n in (50, 120):
                        proxy.disconnect()
                await with_timeout(publisher.flush())
                last = await publisher.publish(self.channel, "end")
            received = [one.data for one in (await take(subscription, last.offset))[:-1]]
        self.assertEqual(sorted(set(received)), list(range(200)))
        firsts = list(dict.fromkeys(received))
        self.assertEqual(firsts, list(range(200)))

    async def test_lost_reply_is_not_sent_again(self):
        gateway = self.gateway
        async with Proxy(gateway.url) as proxy, Publisher(gateway.publish_url, gateway.key) as publisher:
            async with connect(proxy.url, timing=FAST_TIMING) as client:
                subscription = client.subscribe(self.channel)
                await with_timeout(subscription.ready())
                replies = publisher.replies()
                result = await with_timeout(await publisher.send(self.channel, "a question"))
                asked = asyncio.create_task(client.ask(self.channel, result.message_id, 1))
                await take(replies, 1)
                proxy.disconnect()
                with self.assertRaises(LastmileError) as lost:
                    await with_timeout(asked)
                self.assertEqual((lost.exception.code, lost.exception.temporary), ("connection_lost", True))


class GatewayRestart(ChannelTestCase):
    async def test_kill_loses_no_acknowledged_message(self):
        gateway = Gateway(DISK)
        self.addCleanup(gateway.close)
        async with Publisher(gateway.publish_url, gateway.key, timing=FAST_TIMING) as publisher:
            async with connect(gateway.url, timing=FAST_TIMING) as client:
                subscription = client.subscribe("c", buffer=5000)
                await with_timeout(subscription.ready())
                # The disk engine stores a channel with its first publication.
                await publisher.publish("c", "begin")
                acknowledged = []
                for round_ in range(3):
                    for n in range(100):
                        receipt = await with_timeout(publisher.send("c", round_ * 100 + n))
                        acknowledged.append((round_ * 100 + n, receipt))
                        if n == 60 and round_ < 2:
                            gateway.kill()
                            gateway.start()
                results = {}
                for n, receipt in acknowledged:
                    try:
                        results[n] = await with_timeout(receipt)
                    except LastmileError as error:
                        self.assertEqual(error.code, "connection_lost")
                last = await publisher.publish("c", "end")
                received = await take(subscription, last.offset)
        self.assertEqual([one.offset for one in received], list(range(1, last.offset + 1)))
        self.assertEqual([one.gap for one in received if one.gap], [])
        self.assertEqual({one.epoch for one in received}, {last.epoch})
        self.assertGreater(len(results), 100)
        for n, result in results.items():
            self.assertEqual((received[result.offset - 1].data, received[result.offset - 1].message_id), (n, result.message_id))

    async def test_new_epoch_reports_a_gap(self):
        gateway = Gateway()
        self.addCleanup(gateway.close)
        async with Publisher(gateway.publish_url, gateway.key, timing=FAST_TIMING) as publisher:
            async with connect(gateway.url, timing=FAST_TIMING) as client:
                subscription = client.subscribe("c")
                await with_timeout(subscription.ready())
                await publisher.publish("c", 1)
                [before] = await take(subscription, 1)
                gateway.kill()
                gateway.start()
                await publisher.publish("c", 2)
                [after] = await take(subscription, 1)
        self.assertEqual(after.data, 2)
        self.assertEqual((after.gap.reason, after.gap.after), ("history_lost", before.position))
        self.assertNotEqual(after.epoch, before.epoch)

    async def test_client_reconnects_after_drain(self):
        gateway = Gateway()
        self.addCleanup(gateway.close)
        async with connect(gateway.url, timing=FAST_TIMING) as client:
            await with_timeout(client.subscribe("c").ready())
            await asyncio.to_thread(gateway.kill, 15)
            await wait_until(lambda: client.state != "connected")
            self.assertIn(client.error.code, ("draining", "connection_lost"))
            await asyncio.to_thread(gateway.start)
            await wait_until(lambda: client.state == "connected")
