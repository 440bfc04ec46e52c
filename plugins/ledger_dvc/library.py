"""DVC itself, imported on first use."""

from __future__ import annotations

import atexit
import functools

from ledger.errors import PluginUnavailable


@functools.cache
def require() -> None:
    """Raise ``PluginUnavailable`` unless DVC can be imported; what it clones goes when the process ends."""
    try:
        from dvc.repo.open_repo import clean_repos
    except ModuleNotFoundError as error:
        raise PluginUnavailable(
            f"data of DVC cannot be read: {error.name} is not installed", mend="pip install 'training-ledger[dvc]'"
        ) from error
    atexit.register(clean_repos)
