"""Webhooks: `/hooks/{workspace}/{path}` starts the script that has this path among its triggers.

Strangers call these, and what scripts answer is shown from the console's own origin. So a body is limited and
checked before anything is stored, and an answer may set no cookie, speak for no other page and run only as a
sandboxed document.
"""

from web.hooks.views import blueprint

__all__ = ["blueprint"]
