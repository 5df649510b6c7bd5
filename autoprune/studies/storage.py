"""Where Optuna keeps studies: a database by its URL, or a journal, which is a file."""

import importlib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from autoprune.config.search import JOURNAL
from autoprune.errors import AutopruneError, ConfigError, InputError, RunError, lines_of
from autoprune.foundation.paths import user_path

FIELD = "search.study"
TRIES, TRY_AGAIN_S = 5, 0.3  # two processes may make the tables of a new database at once


def require_optuna(what: str) -> Any:
    """The module `optuna`. Raises `ConfigError` that names the extra, and `what` needs it, if it is not installed."""
    try:
        optuna = importlib.import_module("optuna")
    except ImportError:
        raise ConfigError(f"{what} needs Optuna; install it with `pip install autoprune[optuna]`") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def without_password(url: str) -> str:
    return re.sub(r"(://[^:/@]*):[^/]*@", r"\1:***@", url)


@contextmanager
def opened_storage(where: str) -> Iterator[Any]:
    """Optuna's storage at `search.study`. Raises `InputError` for one that cannot be opened."""
    optuna = require_optuna(f"{FIELD}={without_password(where)}")
    storage: Any = None
    for attempt in range(TRIES):
        try:
            if where.startswith(JOURNAL):
                path = user_path(where.removeprefix(JOURNAL), field=FIELD).absolute()
                backend = optuna.storages.journal.JournalFileBackend(str(path))
                storage = optuna.storages.JournalStorage(backend)
            else:
                storage = optuna.storages.RDBStorage(where, engine_kwargs={"pool_pre_ping": True})
            break
        except AutopruneError:
            raise
        except Exception as error:  # drivers raise what they like
            is_made_now = "already exists" in str(error) or type(error).__name__ == "IntegrityError"
            if attempt + 1 < TRIES and is_made_now:
                time.sleep(TRY_AGAIN_S)
                continue
            told = f"cannot be opened ({lines_of(error)[0]}); correct it"
            raise InputError(f"{FIELD}={without_password(where)}: {told}") from None
    try:
        yield storage
    finally:
        if hasattr(storage, "engine"):
            storage.remove_session()
            storage.engine.dispose()


@contextmanager
def storage_errors() -> Iterator[None]:
    """What a storage raises while a search is under way as one message: the search goes on later, nothing is lost."""
    try:
        yield
    except AutopruneError:
        raise
    except Exception as error:  # drivers raise what they like
        told = lines_of(error.__cause__ or error)[0]
        raise RunError(f"{FIELD}: cannot be read or written ({told}); mend that, and go on with --resume") from error
