"""What a development machine keeps under ATOM_HOME: secrets made on first use, and where `up` is running."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from cryptography.fernet import Fernet
from environs import EnvError


def development_secrets(home: Path) -> dict[str, str]:
    """The secrets of this ATOM_HOME, made once, readable by their owner only. Raises OSError, and EnvError where they are damaged."""
    path = home / "secrets.json"
    try:
        return _read(path)
    except FileNotFoundError:
        pass
    home.mkdir(parents=True, exist_ok=True)
    made = {"secret_key": secrets.token_urlsafe(50), "encryption_key": Fernet.generate_key().decode()}
    # Two processes may get here at once: write aside, then link, and the first one wins.
    aside = home / f"secrets.{os.getpid()}"
    aside.touch(mode=0o600)
    aside.write_text(json.dumps(made))
    try:
        os.link(aside, path)
    except FileExistsError:
        pass
    finally:
        aside.unlink()
    return _read(path)


def _read(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text())
        Fernet(found["encryption_key"])
        return {"secret_key": str(found["secret_key"]), "encryption_key": str(found["encryption_key"])}
    except (ValueError, KeyError, TypeError):
        raise EnvError(
            f"{path} is damaged: bring it back from a copy. Delete it only if there is none: with its key go the credentials that it seals."
        ) from None


def running_address(home: Path) -> str:
    """Where `up` of this ATOM_HOME serves, "" when it does not run: "http://127.0.0.1:8000"."""
    try:
        state = json.loads((home / "up.json").read_text())
        os.kill(state["pid"], 0)
    except (FileNotFoundError, ValueError, ProcessLookupError, KeyError):
        return ""
    except PermissionError:
        pass
    return str(state["address"])
