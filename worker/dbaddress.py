"""Where a data source's host really is, under the rules that scripts have for the way out."""

import queue
import socket
import threading
from collections.abc import Callable, Sequence

from sandbox.egress import policy as rules
from sandbox.egress.addresses import IPAddress
from sandbox.egress.policy import Policy, Target
from worker.dblinks import SourceFailed

Look = Callable[[str], Sequence[IPAddress]]
"""The addresses of a name. Raises socket.gaierror."""
_LOOK_UP_S = 5.0
_MOST = 3  # addresses of a name that are tried


def checked(host: str, port: int, policy: Policy, look: Look) -> list[IPAddress]:
    """The addresses to dial, every one of which may be reached. Raises SourceFailed."""
    try:
        name, address = rules.parse_host(host)
        target = Target(name, port, address)
        found = [address] if address is not None else _look_up(name, look)
        for each in found:
            policy.check_address(target, each)
    except rules.Refused as refused:
        raise SourceFailed(f"SSRF protection: the data source's host '{host}' may not be reached: {refused}.") from None
    return list(found[:_MOST])


def _look_up(name: str, look: Look) -> Sequence[IPAddress]:
    """In a daemon's thread: one that waits for a resolver cannot be stopped."""
    answers: queue.SimpleQueue[Sequence[IPAddress]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put(look(name))
        except (socket.gaierror, UnicodeError):
            answers.put([])

    threading.Thread(target=work, name="database-lookup", daemon=True).start()
    try:
        found = answers.get(timeout=_LOOK_UP_S)
    except queue.Empty:
        found = []
    if not found:
        raise SourceFailed(f"The data source's host '{name}' has no address.")
    return found
