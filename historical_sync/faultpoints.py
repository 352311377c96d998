"""Named places where the crash suite kills a worker: before and after every commit of the engine.

    ATOM_FAULT_POINT=after_save:3       SIGKILL right after the third commit of a page

Settings refuse the variable in production. While it is off, a place costs one comparison.
"""

from __future__ import annotations

import os
import signal

from django.conf import settings

_name, _, _count = settings.FAULT_POINT.partition(":")
_left = int(_count or 1)


def reached(moment: str, place: str) -> None:
    """`moment`: before or after; `place`: which commit. Kills this process when it is the one that was asked for."""
    global _left
    if not _name or _name != f"{moment}_{place}":
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
