"""The blocking API."""

import threading
import time
import uuid

from lastmile import LastmileError, PublishResult
from lastmile.blocking import Publisher, connect

from .support import FAST_TIMING, TEST_TIMEOUT_SECS, SharedGateway


class Blocking(SharedGateway):
    def setUp(self):
        self.channel = f"c.{uuid.uuid4()}"
        self.publisher = Publisher(self.gateway.publish_url, self.gateway.key, timing=FAST_TIMING)
        self.client = connect(self.gateway.url, self.gateway.token, timing=FAST_TIMING)
        self.addCleanup(self.publisher.close)
        self.addCleanup(self.client.close)

    def test_every_way_to_publish(self):
        with self.client.subscribe(self.channel) as subscription:
            subscription.ready(TEST_TIMEOUT_SECS)
            first = self.publisher.publish(self.channel, b"\xff")
            many = self.publisher.publish_many(self.channel, range(1, 4))
            receipts = [self.publisher.send(self.channel, n) for n in range(4, 100)]
            self.publisher.flush()
            self.assertTrue(all(receipt.done() for receipt in receipts))
            results = [first, *many, *(receipt.result() for receipt in receipts)]
            received = [subscription.take(TEST_TIMEOUT_SECS) for _ in results]
            self.assertEqual([one.data for one in received], [b"\xff", *range(1, 100)])
            self.assertEqual([PublishResult(one.channel, one.message_id, one.epoch, one.offset) for one in received], results)
            self.assertEqual(subscription.position, received[-1].position)
            self.assertEqual((self.client.state, self.publisher.state), ("connected", "connected"))
        self.assertEqual(list(subscription), [])

    def test_timeout_loses_nothing(self):
        subscription = self.client.subscribe(self.channel)
        subscription.ready(TEST_TIMEOUT_SECS)
        began = time.monotonic()
        with self.assertRaises(TimeoutError):
            subscription.take(0.1)
        self.assertLess(time.monotonic() - began, 5)
        self.publisher.publish(self.channel, 1)
        self.assertEqual(subscription.take(TEST_TIMEOUT_SECS).data, 1)

    def test_errors(self):
        with self.assertRaises(LastmileError) as refused:
            self.publisher.publish("$internal", 1)
        self.assertEqual(refused.exception.code, "channel_invalid")
        self.publisher.send("$internal", 1)
        with self.assertRaises(LastmileError):
            self.publisher.flush()
        with self.assertRaises(LastmileError) as refused:
            next(self.client.subscribe("$internal"))
        self.assertEqual(refused.exception.code, "channel_invalid")
        with self.assertRaises(ValueError):
            Publisher(self.gateway.publish_url, b"no key")

    def test_replies_and_events_across_threads(self):
        events = self.publisher.watch(self.channel)
        self.assertEqual(events.take(TEST_TIMEOUT_SECS).event, "watching")
        replies = self.publisher.replies()

        def answer():
            for reply in replies:
                if reply.data == "stop":
                    return reply.received()
                reply.answer({"to": reply.data})

        answering = threading.Thread(target=answer)
        answering.start()
        subscription = self.client.subscribe(self.channel)
        subscription.ready(TEST_TIMEOUT_SECS)
        self.assertEqual(events.take(TEST_TIMEOUT_SECS).principal.subject, "alice")
        result = self.publisher.send(self.channel, "a question").result(TEST_TIMEOUT_SECS)
        for n in range(3):
            self.assertEqual(self.client.ask(self.channel, result.message_id, n), {"to": n})
        self.client.reply(self.channel, result.message_id, "stop")
        answering.join(TEST_TIMEOUT_SECS)
        self.assertFalse(answering.is_alive())

    def test_close_ends_waiting_thread(self):
        subscription = self.client.subscribe(self.channel)
        subscription.ready(TEST_TIMEOUT_SECS)
        received = []
        waiting = threading.Thread(target=lambda: received.extend(subscription))
        waiting.start()
        self.client.close()
        waiting.join(TEST_TIMEOUT_SECS)
        self.assertFalse(waiting.is_alive())
