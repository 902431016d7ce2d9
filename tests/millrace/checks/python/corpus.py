"""Handlers as people write them. Each must pass."""

HANDLERS = [
    "def handler(payload, context):\n    return {'hello': payload.get('name', 'world')}\n",
    "async def handler(payload, context):\n    return payload\n",
    "# -*- coding: utf-8 -*-\n'''Greets.'''\nfrom __future__ import annotations\n\n"
    "def handler(payload: dict, context) -> dict:\n    return payload\n",
    "\ufeffdef handler(payload, context):\r\n    return 1\r\n",
    """
import asyncio
import httpx

async def fetch(client, url):
    async with client.stream('GET', url) as answer:
        return [chunk async for chunk in answer.aiter_bytes()]

async def handler(payload, context):
    async with httpx.AsyncClient() as client:
        return await asyncio.gather(*(fetch(client, url) for url in payload['urls']))
""",
    """
import json
import logging
import os
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_extensions import TypedDict

try:
    import ujson as fast
except ImportError:
    fast = json

log = logging.getLogger(__name__)

@dataclass
class Order:
    lines: list[dict[str, Any]] = field(default_factory=list)

    def compile(self):
        return [line for line in self.lines if line]

    def eval(self):
        return self.compile()

def handler(payload, context):
    totals = defaultdict(int)
    for line in Order(payload['lines']).eval():
        totals[line['sku']] += line['count']
    log.info('%s of %s', len(totals), os.environ.get('SHOP'))
    return {'at': datetime.now(timezone.utc).isoformat(), 'totals': totals}

if __name__ == '__main__':
    sys.exit(handler(json.load(sys.stdin), None))
""",
    """
import re

PATTERN = re.compile(r'(\\d+)')

def handler(payload, context):
    match payload:
        case {'text': str(text), **rest}:
            return PATTERN.findall(text)
        case [first, *_]:
            return first
        case _:
            raise ValueError('no text')
""",
    """
import functools

def traced(function):
    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)
    return inner

@traced
def handler(payload):
    return payload
""",
    "def process(payload, context, *, dry=False): ...\n\nhandler = process\n",
    "handler = lambda payload, context=None: payload\n",
    "class Handler:\n    def __call__(self, payload, context): ...\n\nhandler = Handler()\n",
    "class handler:\n    def __init__(self, payload, context): ...\n",
    "import sys\nif sys.version_info >= (3, 12):\n    def handler(p, c): ...\nelse:\n    def handler(p, c): ...\n",
    "def handler(*args, **kwargs): ...\n",
    "def handler(payload, context, retries=3): ...\n",
    "import functools\ndef run(a, b, c): ...\nhandler = functools.partial(run, 1)\n",
    "handler = None\n\ndef handler(payload, context): ...\n",
    "handler = None\n\ndef set_up(other):\n    global handler\n    handler = other\n\nset_up(print)\n",
    "def set_up(other):\n    global handler\n    handler = other\n\nhandler = None\nset_up(print)\n",
    "import pickle\ndef handler(p, c):\n    model = pickle.loads(p)\n    model.eval()\n    return model.exec(1)\n",
    "def handler(p, c):\n    df = p\n    return df.query('a > 1').eval('b = a + 1')\n",
    "def handler(payload, context):\n    'eval(1)'  # exec(2)\n    return medieval(1)\n\ndef medieval(x): return x\n",
    "import sys\n__all__ = ['handler']\nmodule = sys.modules[__name__]\ndef handler(p, c): return 'x' in sys.modules\n",
    "import importlib\njson = importlib.import_module('json')\ndef handler(p, c): return json.dumps(p)\n",
    "import types\ndef handler(p, c): return isinstance(p, types.FunctionType)\n",
    "with open('/tmp/x', 'w') as file:\n    def handler(p, c): ...\n",
    "a, handler = 1, print\n",
    "def __getattr__(name): ...\n",
    "globals()['handler'] = print\n",
    "from json import *\n",
    "from urllib.parse import quote\nimport urllib.request\ndef handler(p, c): return quote(p)\n",
    "def handler(p, c):\n    x = [y for y in p if (z := y)]\n    return z\n",
]
