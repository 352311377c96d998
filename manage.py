#!/usr/bin/env python
"""Django's command line for Atom."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "atom.settings")
    from environs import EnvError

    try:
        from django.core.management import execute_from_command_line

        execute_from_command_line(sys.argv)
    except EnvError as error:
        sys.exit(f"atom: {error}")


if __name__ == "__main__":
    main()
