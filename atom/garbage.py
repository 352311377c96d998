"""How Python's garbage collector is set in processes that live long and hold much."""

from __future__ import annotations

import gc


def tune_garbage_collection() -> None:
    """Full collections become rare, and what is loaded by now is left out of them. Call it once all is imported.

    By default the collector walks everything that lives again and again, mostly in vain, as nearly all of it goes by reference
    counts. In a worker, pages are trees of thousands of small objects without cycles: a third of an import's time, seen in a
    profile. In a web process with a thousand sockets, each walk is a pause of 100 ms or more for all of them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
