"""HTTP scripts: `/api/scripts/{path}` starts the script of the caller's workspace that has this path.

They are the same hooks as under `/hooks`, for the workspace's own people and keys: the session or the key says which
workspace is meant, and stands in for a hook's own secret. A hook with auth `member` is served here alone.
"""

from web.httpscripts.access import member_or_key
from web.httpscripts.views import blueprint

__all__ = ["blueprint", "member_or_key"]
