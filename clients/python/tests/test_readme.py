"""Runs each example of the README in its own process against a gateway."""

import asyncio
import sys
from pathlib import Path

from lastmile import LastmileError, Publisher, connect

from .support import FAST_TIMING, ChannelTestCase, SharedGateway, take, wait_until, with_timeout

EXAMPLES = [
    block.split("```")[0] for block in (Path(__file__).parents[1] / "README.md").read_text().split("```python\n")[1:]
]

#: A unique part of each example, and its expected output.
EXPECTED = {
    "publish_many(": "all published",
    "publisher.replies()": "a ticket?",
    "publisher.watch(": "subscribed Principal(issuer='https://app.example', subject='alice') 1",
    '"prices.btc", backlog=10': "market-data {'last': True}",
    "signed_out()": "hello",
    "client.ask(": "17",
    "lastmile.blocking": "{'usd': 64000.6}",
}


class Readme(ChannelTestCase, SharedGateway):
    def test_every_example_has_a_test(self):
        self.assertEqual(len(EXAMPLES), len(EXPECTED))

    async def run_example(self, marker, background):
        [example] = [one for one in EXAMPLES if marker in one]
        script = (
            f"def signed_out(): return False\nasync def fetch_token(): return {self.gateway.token()!r}\n" + example
        )
        for name, here in [
            ("https://live.example.com", self.gateway.url),
            ("https://publish.example.com", self.gateway.publish_url),
            ("market-data.key", str(self.gateway.key)),
        ]:
            script = script.replace(name, here)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-u", "-W", "error", "-c", script),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self.output = ""

        async def listen():
            async for line in process.stdout:
                self.output += line.decode()

        running = asyncio.create_task(background())
        try:
            _, err, _ = await with_timeout(asyncio.gather(listen(), process.stderr.read(), process.wait()))
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            if process.returncode is None:
                process.kill()
        self.assertEqual((process.returncode, err.decode()), (0, ""))
        self.assertIn(EXPECTED[marker], self.output)

    async def publish_repeatedly(self, channel, data):
        async with Publisher(self.gateway.publish_url, self.gateway.key, timing=FAST_TIMING) as publisher:
            while True:
                await publisher.publish(channel, data)
                await asyncio.sleep(0.1)

    async def listen(self, channel, ask=None):
        async with connect(self.gateway.url, self.gateway.token, timing=FAST_TIMING) as client:
            async for publication in client.subscribe(channel, backlog=1):
                try:
                    if ask:
                        await client.ask(channel, publication.message_id, ask)
                except LastmileError:
                    pass  # The message is of an earlier run.

    async def answer(self):
        async with Publisher(self.gateway.publish_url, self.gateway.key, timing=FAST_TIMING) as publisher:
            replies = publisher.replies()
            publishing = asyncio.create_task(self.publish_repeatedly("support", "a question"))
            try:
                while True:
                    [reply] = await take(replies, 1)
                    await reply.answer({"ticket": 17})
            finally:
                publishing.cancel()

    async def test_publish(self):
        await self.run_example("publish_many(", lambda: asyncio.sleep(0))

    async def test_replies(self):
        await self.run_example("publisher.replies()", lambda: self.listen("support", "a ticket?"))

    async def test_events(self):
        async def later():
            await wait_until(lambda: "watching" in self.output)
            await self.listen("support")

        await self.run_example("publisher.watch(", later)

    async def test_listen(self):
        publishing = lambda: self.publish_repeatedly("prices.btc", {"last": True})
        await self.run_example('"prices.btc", backlog=10', publishing)

    async def test_token(self):
        await self.run_example("signed_out()", lambda: self.publish_repeatedly("members.news", "hello"))

    async def test_answer(self):
        await self.run_example("client.ask(", self.answer)

    async def test_blocking(self):
        await self.run_example("lastmile.blocking", lambda: asyncio.sleep(0))
