"""Makes network clients work in a jail that has no network: every TCP connection becomes a CONNECT through the unix
socket of the egress proxy. Clients are unchanged, TLS is end to end, and names are resolved outside.

This is comfort, not protection: a script that undoes it has no network at all. Nothing costly is loaded here:
`socket` and `asyncio` are changed when something first imports them.
"""

from __future__ import annotations

from . import modules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType


def install(socket_path: str) -> None:
    """Route all connections through the egress proxy that listens at `socket_path`. To be called once."""

    def patch_socket(_socket: ModuleType) -> None:
        from . import tunnel  # noqa: PLC0415  # needs socket itself

        tunnel.install(socket_path)

    def patch_loops(selector_events: ModuleType) -> None:
        from . import tunnel  # noqa: PLC0415

        tunnel.install_in_loops(selector_events)

    modules.after("socket", patch_socket)
    modules.after("asyncio.selector_events", patch_loops)
