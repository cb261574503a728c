"""How far an import has come, kept in a small file, so that an interrupted one can go on.

Writes end in any order, so what is kept is the last record that was read and every one before it that
is not known to be written. Writing one of these twice changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvstore.cli.records import Place
from kvstore.errors import ConfigError, KVStoreError

START = Place(0, 0, 0)
_FORMAT = 1


class Progress:
    """`pending`: read, and not known to be written; of these `errors` failed. Both by record number.

    `finished`: there is nothing left to read.
    """

    def __init__(self, read_to: Place = START, imported: int = 0) -> None:
        self.read_to, self.imported = read_to, imported
        self.finished = False
        self.pending: dict[int, Place] = {}
        self.errors: dict[int, KVStoreError] = {}

    def started(self, place: Place) -> None:
        self.pending[place.number] = place
        if place.number > self.read_to.number:
            self.read_to = place

    def written(self, place: Place) -> None:
        del self.pending[place.number]
        self.imported += 1

    def failed(self, place: Place, error: KVStoreError) -> None:
        self.errors[place.number] = error


def save(file: Path, progress: Progress, source: Mapping[str, Any]) -> None:
    """`source` says what is imported where: only the same can go on."""
    document = {
        "format": _FORMAT,
        "source": source,
        "read_to": progress.read_to,
        "imported": progress.imported,
        "again": sorted(progress.pending.values(), key=lambda place: place.number),
    }
    temporary = file.with_name(file.name + ".new")
    temporary.write_text(json.dumps(document))
    temporary.replace(file)


def load(file: Path, source: Mapping[str, Any]) -> tuple[Progress, list[Place]]:
    """(where to go on, what to do again). Raises ConfigError if there is nothing to go on with."""
    anew = "import it from the start, without --resume: what is there already is written once more"
    try:
        document = json.loads(file.read_text())
        if document["format"] != _FORMAT or document["source"] != source:
            changed = [name for name in source if document["source"].get(name) != source[name]]
            raise ConfigError(
                f"{file} is of another import: {', '.join(changed) or 'format'} differs", advice=anew
            )
        progress = Progress(Place(*document["read_to"]), document["imported"])
        return progress, [Place(*place) for place in document["again"]]
    except FileNotFoundError:
        raise ConfigError(f"no interrupted import: {file} does not exist", advice=anew) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"{file} is not readable", advice=anew) from None
