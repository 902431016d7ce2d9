"""Names to addresses, outside of the jail, and connections to the addresses that passed."""

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence

from sandbox.egress.addresses import IPAddress
from sandbox.egress.policy import Policy, Target

Resolve = Callable[[str], Awaitable[Sequence[IPAddress]]]
"""The addresses of a name, best first. Raises socket.gaierror."""


class Unreachable(Exception):
    """The target may be reached but could not be. `code` is what Node calls the error."""

    def __init__(self, code: str, address: IPAddress | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.address = address


async def system(name: str) -> list[IPAddress]:
    """The addresses of a name as the host's own resolver has them."""
    infos = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    found = (str(info[4][0]) for info in infos)
    return list(dict.fromkeys(map(ipaddress.ip_address, found)))


async def checked_addresses(target: Target, policy: Policy, resolve: Resolve) -> Sequence[IPAddress]:
    """The target's addresses, resolved once. Every one may be reached, or Refused or Unreachable is raised."""
    if target.address is not None:
        found: Sequence[IPAddress] = [target.address]
    else:
        try:
            async with asyncio.timeout(policy.connect_timeout):
                found = await resolve(target.host)
        except socket.gaierror as error:
            raise Unreachable("EAI_AGAIN" if error.errno == socket.EAI_AGAIN else "ENOTFOUND") from None
        except TimeoutError:
            raise Unreachable("EAI_AGAIN") from None
        if not found:
            raise Unreachable("ENOTFOUND")
    for address in found:
        policy.check_address(target, address)
    return found


async def dial(
    addresses: Sequence[IPAddress], port: int, timeout: float, protocol: Callable[[], asyncio.Protocol]
) -> IPAddress:
    """Connects `protocol` to the first address that answers, and says which. Raises Unreachable.

    The addresses go in as text of an address, so nothing is resolved again. They share the
    `timeout`, in seconds.
    """
    loop = asyncio.get_running_loop()
    failure = Unreachable("ETIMEDOUT")
    for address in addresses:
        try:
            async with asyncio.timeout(timeout / len(addresses)):
                await loop.create_connection(protocol, str(address), port)
            return address
        except TimeoutError:
            failure = Unreachable("ETIMEDOUT", address)
        except OSError as error:
            failure = Unreachable(errno.errorcode.get(error.errno or 0, "ECONNREFUSED"), address)
    raise failure
