"""One of so many shards of the rows of a table."""

from typing import NamedTuple

from deepfm.errors import ConfigError


class Shard(NamedTuple):
    """Which of how many shards.

    Attributes:
        number: From 0.
        of: How many there are.
    """

    number: int
    of: int

    @classmethod
    def from_text(cls, text: str, key: str = "--shard") -> "Shard":
        """From `i/n`.

        Raises:
            ConfigError: It is none.

        Example:
            >>> Shard.from_text("3/8")
            Shard(number=3, of=8)
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and int(number) < int(of)):
            raise ConfigError(f"expected i/n with i from 0 to n - 1, found {text!r}", key=key)
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"
