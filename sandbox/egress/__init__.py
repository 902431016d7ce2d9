"""The only way out of a jail.

A jail has an empty network namespace. One unix socket per slot is bound into it, and leads to this proxy,
which runs outside as a process of its own: `python -m sandbox.egress`. The proxy learns who is asking from
the socket that was used, never from what is sent over it. It resolves names itself, checks every address that
a name has, dials the address that it checked, counts bytes, and remembers what it refused.

It does not look into TLS, does not cache, and does not speak for a slot that has no run.
"""
