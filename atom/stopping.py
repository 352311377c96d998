"""How a process is told to stop."""

from __future__ import annotations

import signal


def stopping_signals() -> list[signal.Signals]:
    """Those that end it in order. A terminal that is closed is one, except for who was started with `nohup`."""
    hang_up = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hang_up]
