"""Client of a lastmile gateway: `Publisher` publishes signed requests, `connect` subscribes with recovery.

`lastmile.blocking` has the same API without asyncio."""

from .connection import State, Timing
from .errors import LastmileError
from .keys import SigningKey
from .protocol import ChannelEvent, Gap, Place, Position, Principal, Publication, PublishResult
from .publisher import Publisher
from .stream import Receipt, Replies, Reply, Watch
from .subscriber import Client, connect
from .subscription import Subscription
from .tokens import TokenSource

__all__ = [
    "ChannelEvent",
    "Client",
    "Gap",
    "LastmileError",
    "Place",
    "Position",
    "Principal",
    "Publication",
    "PublishResult",
    "Publisher",
    "Receipt",
    "Replies",
    "Reply",
    "SigningKey",
    "State",
    "Subscription",
    "Timing",
    "TokenSource",
    "Watch",
    "connect",
]
