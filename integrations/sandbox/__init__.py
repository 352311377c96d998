"""A stand-in for every provider: its wire format, its OAuth pages, its limits and its bad days, with made-up data.

`make_app` is an ASGI application for /sandbox/...; `python -m integrations.sandbox` serves it alone.
"""

from integrations.sandbox.app import make_app

__all__ = ["make_app"]
