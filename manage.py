#!/usr/bin/env python
"""Django's command line for Atom."""

import gc
import os
import signal
import sys


def main() -> None:
    # A tenth of the start would go into looking for garbage in what has just been imported.
    gc.set_threshold(50_000, 20, 100)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "atom.settings")
    from django.db import OperationalError
    from environs import EnvError

    try:
        "\0".join(sys.argv).encode()
    except UnicodeEncodeError:
        print("atom: what is given to a command must be UTF-8", file=sys.stderr)
        sys.exit(2)
    try:
        from django.core.management import execute_from_command_line

        try:
            if len(sys.argv) > 1:
                make_embedded_database(sys.argv[1])
            execute_from_command_line(sys.argv)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:  # who read along has had enough, as `| head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more as it ends
        sys.exit(128 + signal.SIGPIPE)
    except EnvError as error:
        sys.exit(f"atom: {error}")
    except OperationalError as error:
        if getattr(error.__cause__, "sqlstate", None):
            raise  # it answers, and something is wrong with what it was asked
        sys.exit(f"atom: the database can't be reached (manage.py doctor says more): {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def make_embedded_database(command: str) -> None:
    """The tables, where a command of ours is the first to use this ATOM_HOME; `up` makes them itself."""
    import django
    from django.conf import settings
    from django.core.management import call_command, get_commands

    if settings.DATABASE_URL or (settings.ATOM_HOME / "postgres" / "PG_VERSION").exists():
        return
    django.setup()
    makes_tables = command in ("migrate", "makemigrations", "flush", "up")
    if get_commands().get(command) in ("atom", "integrations", "historical_sync") and not makes_tables:
        call_command("migrate", verbosity=0, interactive=False)


if __name__ == "__main__":
    main()
