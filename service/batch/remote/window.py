"""How many requests are under way at once: as many as the server's 429s allow."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

MOST = 64


@dataclass
class Window:
    """Requests under way, by additive increase and multiplicative decrease (Chiu and Jain 1989), as in TCP.

    A window's worth of answers adds one request; a refusal halves the number, but only once for all requests that
    were sent before it.

    Attributes:
        size: requests that may be under way.
        most: its upper limit.
        busy: requests that are.
    """

    size: float = 4.0
    most: int = MOST
    busy: int = 0
    _round: int = 0
    _waiting: "deque[asyncio.Future[None]]" = field(default_factory=deque)

    async def enter(self) -> int:
        """Waits for a place, in turn; returns a token for `refused`."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._wake()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            raise
        return self._round

    def leave(self) -> None:
        """Gives a place back."""
        self.busy -= 1
        self._wake()

    def answered(self) -> None:
        """Counts an answer."""
        self.size = min(self.most, self.size + 1 / self.size)
        self._wake()

    def refused(self, token: int) -> None:
        """Halves the size, unless it was halved since the request was sent."""
        if token == self._round:
            self._round += 1
            self.size = max(1.0, self.size / 2)

    def _wake(self) -> None:
        while self._waiting and self.busy < int(self.size):
            turn = self._waiting.popleft()
            if not turn.done():
                self.busy += 1
                turn.set_result(None)
