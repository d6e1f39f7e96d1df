"""The keys that secrets are sealed with: from the settings, or from a file of the data directory.

They are never in the database nor in a backup, so neither shows a secret by itself.
"""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path

from rgrid_server.config import Settings
from rgrid_server.domain.sealing import Sealer
from rgrid_server.storage import write_private
from rgrid_server.store.database import StorageError

KEYS_FILE = "secret.keys"


def make_sealer(settings: Settings) -> Sealer:
    """A sealer with the server's keys; the first key is made where there is none.

    Raises:
        StorageError: what is there is no row of keys.
    """
    if settings.secret_keys is not None:
        where, text = "RGRID_SECRET_KEYS", settings.secret_keys.get_secret_value()
    else:
        path = settings.data_dir / KEYS_FILE
        where, text = str(path), _read_or_make(path)
    try:
        return Sealer(text.replace(",", " ").split())
    except ValueError as error:
        raise StorageError(
            f"{where} does not hold the keys of secrets: {error}; make one with "
            "`rgrid server secrets new-key`"
        ) from None


def new_key() -> str:
    """A fresh key: 32 random bytes in URL-safe base64."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def prepend_key(path: Path) -> None:
    """Let a new key seal from now on; those before it go on opening what they have sealed."""
    write_private(path, f"{new_key()}\n{_read_or_make(path)}")


def keep_newest(path: Path) -> None:
    """Forget all keys but the newest; what was sealed with another is lost."""
    write_private(path, path.read_text().split()[0] + "\n")


def _read_or_make(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        pass
    # written beside it and linked, so that of several servers that start at once all read the same
    own = path.with_name(f"{path.name}.{os.getpid()}")
    write_private(own, f"{new_key()}\n")
    try:
        os.link(own, path)
    except FileExistsError:
        pass
    finally:
        own.unlink()
    return path.read_text()
