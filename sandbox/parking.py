"""Used jails between two jobs, kept for the next job of their key."""

from __future__ import annotations

from collections import OrderedDict

from sandbox.lease import Jail

Key = tuple[object, ...]


class Parking:
    """Remembers which jail was parked first, and how much memory all of them hold."""

    def __init__(self) -> None:
        self._keys: OrderedDict[Jail, Key] = OrderedDict()
        self._by_key: dict[Key, list[Jail]] = {}
        self.resident_bytes = 0

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, used: Jail, key: Key) -> None:
        self._keys[used] = key
        self._by_key.setdefault(key, []).append(used)
        self.resident_bytes += used.resident_bytes

    def latest(self, key: Key) -> Jail | None:
        """The jail of this key that was parked last: its caches are the warmest."""
        line = self._by_key.get(key)
        return line[-1] if line else None

    def oldest(self, count: int = 1) -> list[Jail]:
        """Those that were parked first, at most `count`."""
        return [each for each, _ in zip(self._keys, range(count), strict=False)]

    def remove(self, used: Jail) -> None:
        """No error if it is not parked."""
        key = self._keys.pop(used, None)
        if key is None:
            return
        self.resident_bytes -= used.resident_bytes
        line = self._by_key[key]
        line.remove(used)
        if not line:
            del self._by_key[key]
