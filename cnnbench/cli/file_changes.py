"""Follows files as they are saved, and does something on Enter: a loop without a terminal."""

from collections.abc import Hashable
from contextlib import AbstractContextManager
from typing import Protocol

POLL_S = 0.1
ENTER, LEAVE = ("\n", "\r"), ("q", "Q", "\x04")


class Keys(Protocol):
    """Where keys come from."""

    def key(self, seconds: float) -> str:
        """The next key; empty where none is pressed in so many seconds."""

    def lent(self) -> AbstractContextManager[None]:
        """Keys are not read for as long."""


class Desk(Protocol):
    """What is followed, and where it is shown."""

    def stamp(self) -> Hashable:
        """Another one whenever what is followed was saved."""

    def draw(self) -> Hashable:
        """Shows it, and returns the stamp that it had when it was read."""

    def enter(self) -> None:
        """What Enter is for."""

    def ask(self) -> None:
        """Says which keys there are."""


def follow(desk: Desk, keys: Keys) -> None:
    """Draws whenever something was saved, until a key ends it.

    Nothing is drawn while it changes: an editor may empty a file before it writes it, or put a
    new one in its place, and what is there in between is not what anybody wrote.

    Args:
      desk: what is followed.
      keys: where keys come from.
    """
    drawn = before = desk.draw()
    desk.ask()
    while (key := keys.key(POLL_S)) not in LEAVE:
        now = desk.stamp()
        if now != drawn and (now == before or key in ENTER):
            drawn = now = desk.draw()
            desk.ask()
        before = now
        if key in ENTER:
            with keys.lent():
                desk.enter()
            desk.ask()  # no sooner: what is pressed before the keys are back is lost
