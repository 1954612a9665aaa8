"""Publishing by signed requests."""

import asyncio
import ssl
import unittest

from lastmile import LastmileError, Publisher, PublishResult, connect
from lastmile.protocol import error_from_problem

from .support import FAST_TIMING, ChannelTestCase, Gateway, Proxy, take, with_timeout


def setUpModule():
    global gateway
    gateway = Gateway()


def tearDownModule():
    gateway.close()


class Publish(ChannelTestCase):
    async def asyncSetUp(self):
        await super().asyncSetUp()
        self.publisher = Publisher(gateway.publish_url, gateway.key, timing=FAST_TIMING, retry_secs=5)
        self.client = connect(gateway.url, timing=FAST_TIMING)

    async def asyncTearDown(self):
        await self.publisher.close()
        await self.client.close()

    async def test_data_round_trip(self):
        subscription = self.client.subscribe(self.channel)
        await with_timeout(subscription.ready())
        data = [{"usd": 64000.5}, "text", "é\n\u2028", None, [1, True], b"\x00\xff", b""]
        results = [await self.publisher.publish(self.channel, one) for one in data]
        received = await take(subscription, len(data))
        self.assertEqual([one.data for one in received], data)
        self.assertEqual([PublishResult(one.channel, one.message_id, one.epoch, one.offset) for one in received], results)
        self.assertEqual([one.offset for one in received], list(range(1, len(data) + 1)))
        self.assertEqual({one.publisher for one in received}, {"market-data"})
        self.assertRegex(received[0].time, r"^20\d\d-\d\d-\d\dT.*\.\d{3}Z$")

    async def test_channel_names_are_encoded(self):
        for channel in ["a/b", "a b", "ünï", "a?b#c%20", "..", "😀"]:
            result = await self.publisher.publish(channel, 1)
            self.assertEqual(result.channel, channel)

    async def test_publish_many(self):
        outcomes = await self.publisher.publish_many(f"small.{self.channel}"[:40], [1, "x" * 50, 3])
        self.assertEqual([getattr(one, "offset", None) for one in outcomes], [1, None, 2])
        self.assertIsInstance(outcomes[1], LastmileError)
        self.assertEqual((outcomes[1].code, outcomes[1].temporary), ("message_too_large", False))
        self.assertEqual(await self.publisher.publish_many(self.channel, []), [])
        with self.assertRaises(TypeError):
            await self.publisher.publish_many(self.channel, [b"bytes"])

    async def test_idempotency_key(self):
        first = await self.publisher.publish(self.channel, 1, idempotency_key="order-1" + self.channel)
        again = await self.publisher.publish(self.channel, 1, idempotency_key="order-1" + self.channel)
        self.assertEqual(first, again)
        with self.assertRaises(LastmileError) as refused:
            await self.publisher.publish(self.channel, 2, idempotency_key="order-1" + self.channel)
        self.assertEqual((refused.exception.code, refused.exception.status), ("idempotency_mismatch", 422))

    async def test_large_batches_are_split(self):
        outcomes = await with_timeout(self.publisher.publish_many(self.channel, range(2500), "key" + self.channel))
        self.assertEqual([outcome.offset for outcome in outcomes], list(range(1, 2501)))
        again = await with_timeout(self.publisher.publish_many(self.channel, range(2500), "key" + self.channel))
        self.assertEqual(again, outcomes)
        # Below the default limit of messages, beyond that of bytes.
        large = await with_timeout(self.publisher.publish_many(self.channel, ["x" * 60_000] * 100))
        self.assertEqual([outcome.offset for outcome in large], list(range(2501, 2601)))

    async def test_batches_follow_lower_limits(self):
        own = Gateway("[limits]\nmax_batch_messages = 7")
        self.addCleanup(own.close)
        async with Publisher(own.publish_url, own.key) as publisher:
            outcomes = await with_timeout(publisher.publish_many(self.channel, range(50)))
        self.assertEqual([outcome.offset for outcome in outcomes], list(range(1, 51)))

    async def test_lost_response_is_retried(self):
        async with Proxy(gateway.publish_url) as proxy:
            publisher = Publisher(proxy.url, gateway.key, retry_secs=20)
            proxy.responses_to_drop = 2
            result = await with_timeout(publisher.publish(self.channel, "once"))
            await publisher.close()
            self.assertEqual(proxy.connections, 3)
        self.assertEqual(result.offset, 1)
        self.assertEqual((await self.publisher.publish(self.channel, "next")).offset, 2)

    async def test_refusal_codes(self):
        narrow = Publisher(gateway.publish_url, gateway.narrow_key)
        unknown_publisher = Publisher(gateway.publish_url, gateway.keygen(f"stranger-{self.channel}.key")[0])
        for publisher, channel, code, status in [
            (narrow, self.channel, "channel_forbidden", 403),
            (unknown_publisher, self.channel, "key_unknown", 401),
            (self.publisher, "$internal", "channel_invalid", 400),
            (self.publisher, "small.1", "message_too_large", 413),
        ]:
            with self.assertRaises(LastmileError) as refused:
                await publisher.publish(channel, "x" * 30)
            error = refused.exception
            self.assertEqual((error.code, error.status, error.temporary), (code, status, False))
            self.assertTrue(error.message)
        await narrow.close()
        await unknown_publisher.close()

    async def test_unreachable_gateway_is_temporary(self):
        publisher = Publisher("http://127.0.0.1:1", gateway.key, retry_secs=0)
        with self.assertRaises(LastmileError) as refused:
            await publisher.publish(self.channel, 1)
        self.assertEqual((refused.exception.code, refused.exception.temporary), ("connection_lost", True))
        await publisher.close()
        with self.assertRaises(LastmileError) as refused:
            await publisher.publish(self.channel, 1)
        self.assertEqual(refused.exception.code, "closed")

    async def test_channel_management(self):
        await self.publisher.create_channel(self.channel, max_messages=2)
        await self.publisher.create_channel(self.channel, max_messages=2)
        with self.assertRaises(LastmileError) as refused:
            await self.publisher.create_channel(self.channel, max_messages=3)
        self.assertEqual(refused.exception.code, "channel_exists")
        state = await self.publisher.describe_channel(self.channel)
        self.assertEqual(state["channel"], self.channel)
        subscription = self.client.subscribe(self.channel)
        await with_timeout(subscription.ready())
        await self.publisher.close_channel(self.channel)
        with self.assertRaises(LastmileError) as ended:
            await take(subscription, 1)
        self.assertEqual((ended.exception.code, ended.exception.status), ("channel_closed", 4504))
        # The gateway also closes the connection, because it was the last channel; the client must reconnect.
        await with_timeout(self.client.subscribe(self.channel + ".other").ready())

    async def test_invalid_data_and_urls(self):
        for data in [float("nan"), object(), {1, 2}, "\ud800"]:
            with self.assertRaises((ValueError, TypeError)):
                await self.publisher.publish(self.channel, data)
            with self.assertRaises((ValueError, TypeError)):
                await self.publisher.send(self.channel, data)
        for url in ["ftp://h", "http://", "http://h/?q", "http://u:p@h", "h:80", "127.0.0.1:80"]:
            with self.assertRaises(ValueError):
                Publisher(url, gateway.key)

    async def test_connection_pool_is_bounded(self):
        async with Proxy(gateway.publish_url) as proxy:
            publisher = Publisher(proxy.url, gateway.key)
            results = await asyncio.gather(*(publisher.publish(self.channel, n) for n in range(100)))
            await publisher.close()
            self.assertLessEqual(proxy.connections, 8)
        self.assertEqual(sorted(result.offset for result in results), list(range(1, 101)))


class StaleSignature(unittest.TestCase):
    def test_signed_again_if_gateway_asks(self):
        problem = b'{"type":"/problems/signature-stale","title":"t","status":401,"detail":"d","temporary":true}'
        asked = error_from_problem(401, problem, "3")
        self.assertEqual((asked.code, asked.temporary, asked.retry_after), ("signature_stale", True, 3.0))
        differs = error_from_problem(401, problem.replace(b"true", b"false"), None)
        self.assertFalse(differs.temporary)


class Tls(ChannelTestCase):
    async def test_tls(self):
        own = Gateway(tls=True)
        self.addCleanup(own.close)
        tls = ssl.create_default_context(cafile=str(own.certificate))
        async with Publisher(own.publish_url, own.key, tls=tls) as publisher, connect(own.url, tls=tls) as client:
            subscription = client.subscribe("c")
            await with_timeout(subscription.ready())
            await publisher.publish("c", 1)
            await with_timeout(await publisher.send("c", 2))
            self.assertEqual([one.data for one in await take(subscription, 2)], [1, 2])
        async with Publisher(own.publish_url, own.key, retry_secs=0) as publisher:
            with self.assertRaises(LastmileError) as refused:
                await publisher.publish("c", 1)
            self.assertIn("CERTIFICATE_VERIFY_FAILED", refused.exception.message)
