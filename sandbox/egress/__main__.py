"""python -m sandbox.egress FD LIMITS: the egress proxy, led by whoever holds the other end of the socket FD.

LIMITS is a JSON object: what each group may use, as group.Limits has it.
"""

import asyncio
import json
import resource
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

from sandbox.egress.control import Control
from sandbox.egress.group import Groups, Limits

_RESOLVER_THREADS = 32


async def serve(descriptor: int, limits: Limits) -> None:
    """Serves until the launcher closes its end or the process is told to stop."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(_RESOLVER_THREADS, thread_name_prefix="resolve"))
    control = Control(Groups(limits))
    loop.add_signal_handler(signal.SIGTERM, control.ended.set)
    transport, _ = await loop.connect_accepted_socket(lambda: control, socket.socket(fileno=descriptor))
    await control.ended.wait()
    transport.close()


def main(arguments: list[str]) -> None:
    try:
        number, text = arguments
        descriptor, limits = int(number), Limits.from_json(json.loads(text))
    except ValueError:
        sys.exit("usage: python -m sandbox.egress FD LIMITS")
    # Two descriptors for every connection of every slot.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # Ctrl-C is for the supervisor, which ends the launcher in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(serve(descriptor, limits))


if __name__ == "__main__":
    main(sys.argv[1:])
