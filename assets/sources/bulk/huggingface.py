"""Rows of a Hugging Face data set: a saved one, a folder of data files, or a name on the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from assets.build import BuildError
from assets.machine_faults import raise_machine_fault
from assets.sources.bulk_config import DatasetSource
from assets.sources.streams.decompression import InputError
from assets.sources.variables import Variables


def huggingface_rows(path: str, source: DatasetSource, variables: Variables) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, row) in the order of the data set; streamed, so nothing is converted or cached on disk.

    A hub name needs a network and HF_HUB_OFFLINE=0. Raises BuildError when there is no such data set or split.
    """
    data = _open(variables.reveal(path), source)
    number = 0
    try:
        for row in data:
            number += 1
            yield number, row
    except (ValueError, OSError, TypeError) as error:  # the parsers' and pyarrow's own
        raise_machine_fault(error)
        raise InputError(
            "input_damaged", f"unreadable after row {number}: {' '.join(str(error).split())[:300]}"
        ) from None


def _open(path: str, source: DatasetSource) -> Any:
    import datasets

    folder = Path(path).expanduser()
    saved = (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists()
    try:
        if saved:
            found = datasets.load_from_disk(str(folder))
            if isinstance(found, datasets.DatasetDict):
                if source.huggingface_split not in found:
                    raise ValueError(f"no split {source.huggingface_split!r}; it has {sorted(map(str, found))}")
                found = found[source.huggingface_split]
            return found.to_iterable_dataset()
        name = str(folder) if folder.exists() else path
        return datasets.load_dataset(
            name, source.huggingface_config or None, split=source.huggingface_split, streaming=True
        )
    except Exception as error:  # datasets raises many kinds; all mean that there is no such data set here
        raise_machine_fault(error)
        raise BuildError(
            f"Hugging Face data set {path!r} cannot be opened: {' '.join(str(error).split())[:400]}. Give a folder of "
            "save_to_disk, a folder that load_dataset reads, or a hub name (with a network and HF_HUB_OFFLINE=0)"
        ) from None
