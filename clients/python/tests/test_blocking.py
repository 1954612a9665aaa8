"""The face without asyncio."""

import threading
import time
import unittest
import uuid

from lastmile import LastmileError, PublishResult
from lastmile.blocking import Publisher, connect

from .support import PATIENCE, QUICK, Gateway


class Blocking(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.gateway = Gateway()

    @classmethod
    def tearDownClass(cls):
        cls.gateway.close()

    def setUp(self):
        self.channel = f"c.{uuid.uuid4()}"
        self.publisher = Publisher(self.gateway.publish_url, self.gateway.key, timing=QUICK)
        self.client = connect(self.gateway.url, self.gateway.token, timing=QUICK)
        self.addCleanup(self.publisher.close)
        self.addCleanup(self.client.close)

    def test_what_is_published_in_each_way_arrives(self):
        with self.client.subscribe(self.channel) as subscription:
            subscription.ready(PATIENCE)
            first = self.publisher.publish(self.channel, b"\xff")
            many = self.publisher.publish_many(self.channel, range(1, 4))
            receipts = [self.publisher.send(self.channel, n) for n in range(4, 100)]
            self.publisher.flush()
            self.assertTrue(all(receipt.done() for receipt in receipts))
            places = [first, *many, *(receipt.result() for receipt in receipts)]
            got = [subscription.take(PATIENCE) for _ in places]
            self.assertEqual([one.data for one in got], [b"\xff", *range(1, 100)])
            self.assertEqual([PublishResult(one.channel, one.message_id, one.epoch, one.offset) for one in got], places)
            self.assertEqual(subscription.position, got[-1].position)
            self.assertEqual((self.client.state, self.publisher.state), ("connected", "connected"))
        self.assertEqual(list(subscription), [])

    def test_waiting_has_an_end_and_loses_nothing(self):
        subscription = self.client.subscribe(self.channel)
        subscription.ready(PATIENCE)
        began = time.monotonic()
        with self.assertRaises(TimeoutError):
            subscription.take(0.1)
        self.assertLess(time.monotonic() - began, 5)
        self.publisher.publish(self.channel, 1)
        self.assertEqual(subscription.take(PATIENCE).data, 1)

    def test_errors_are_the_same(self):
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

    def test_replies_answers_and_events_from_several_threads(self):
        events = self.publisher.watch(self.channel)
        self.assertEqual(events.take(PATIENCE).event, "watching")
        replies = self.publisher.replies()

        def answer():
            for reply in replies:
                if reply.data == "stop":
                    return reply.received()
                reply.answer({"to": reply.data})

        answering = threading.Thread(target=answer)
        answering.start()
        subscription = self.client.subscribe(self.channel)
        subscription.ready(PATIENCE)
        self.assertEqual(events.take(PATIENCE).principal.subject, "alice")
        place = self.publisher.send(self.channel, "a question").result(PATIENCE)
        for n in range(3):
            self.assertEqual(self.client.ask(self.channel, place.message_id, n), {"to": n})
        self.client.reply(self.channel, place.message_id, "stop")
        answering.join(PATIENCE)
        self.assertFalse(answering.is_alive())

    def test_close_wakes_who_waits_in_another_thread(self):
        subscription = self.client.subscribe(self.channel)
        subscription.ready(PATIENCE)
        got = []
        waiting = threading.Thread(target=lambda: got.extend(subscription))
        waiting.start()
        self.client.close()
        waiting.join(PATIENCE)
        self.assertFalse(waiting.is_alive())
