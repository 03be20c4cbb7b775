"""A replaced sequence reads as the earlier one that stands in for it; everything else reads as planned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.training.tiny import tiny_request
from training.contract.errors import OrderError
from training.contract.request import TrainRequest
from training.data.amended_order import AmendedReader, Amending, OrderDocuments, plan_replacements
from training.data.order_dataset import OrderReader
from training.job import open_order
from training.recovery.incidents import Amendment, Amendments


@pytest.fixture
def reader(data: Path, tmp_path: Path) -> OrderReader:
    return open_order(TrainRequest.model_validate(tiny_request(data, tmp_path / "out")))


def amending(replaced: dict[int, int]) -> Amending:
    return Amending(Amendments((Amendment(1, "replace_sequences", 1, replaced=replaced),)))


def test_replaced_sequences_are_read_from_where_they_stand_in(data: Path, tmp_path: Path, reader: OrderReader) -> None:
    request = TrainRequest.model_validate(tiny_request(data, tmp_path / "out"))
    amended = AmendedReader(lambda: open_order(request), amending({9: 2, 11: 2, 30: 4}))
    numbers = np.arange(8, 13)
    found, planned = amended.read(numbers), reader.read(numbers)
    stand_in = open_order(request).read(np.array([2]))
    for name in ("tokens", "channels", "pieces"):
        assert (getattr(found, name)[[0, 2, 4]] == getattr(planned, name)[[0, 2, 4]]).all()
        assert (getattr(found, name)[[1, 3]] == getattr(stand_in, name)).all()
    assert (amended.read(np.array([30])).tokens == open_order(request).read(np.array([4])).tokens).all()
    assert (amended.read(np.arange(13, 20)).tokens == reader.read(np.arange(13, 20)).tokens).all()


def test_every_later_sequence_of_a_quarantined_document_is_replaced_by_a_clean_one_of_its_channel(
    reader: OrderReader,
) -> None:
    documents = OrderDocuments(reader, Amending())
    bad = documents.pieces(np.array([20]))["doc_id"].to_pylist()[0]
    tainted = documents.holding([bad], 16, 40)
    assert 20 in tainted
    replaced = plan_replacements(documents, [bad], 16, 19, 40)
    assert sorted(replaced) == tainted
    channels = documents.channels(0, 40)
    for sequence, other in replaced.items():
        assert other < 19
        assert bad not in documents.pieces(np.array([other]))["doc_id"].to_pylist()
        same = [n for n in range(19) if channels[n] == channels[sequence]]
        assert channels[other] == channels[sequence] or not same
    amended = OrderDocuments(reader, amending(replaced))
    assert bad not in amended.pieces(np.arange(16, 40))["doc_id"].to_pylist()
    assert set(amended.pieces(np.array([20]))["sequence"].to_pylist()) == {20}


def test_when_nothing_clean_comes_before_the_window_the_run_says_so(reader: OrderReader) -> None:
    documents = OrderDocuments(reader, Amending())
    everything = documents.pieces(np.arange(40))["doc_id"].to_pylist()
    with pytest.raises(OrderError, match="all hold quarantined documents"):
        plan_replacements(documents, everything, 16, 19, 40)
