"""Client of a lastmile gateway: `Publisher` publishes with signatures, `connect` listens with recovery. `lastmile.blocking`
has the same without asyncio."""

from .errors import LastmileError
from .keys import SigningKey
from .connection import State, Timing
from .protocol import ChannelEvent, Gap, Place, Position, Principal, Publication
from .publisher import Publisher
from .stream import Receipt, Replies, Reply, Watch
from .subscriber import Client, TokenSource, connect
from .subscription import Subscription

__all__ = [
    "ChannelEvent",
    "Client",
    "Gap",
    "LastmileError",
    "Place",
    "Position",
    "Principal",
    "Publication",
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
