import pandas as pd
import pytest

from repro.errors import ReproError
from repro.study import claims

LEDGER = claims.load()


def test_known_cells():
    known = {
        "001-t3-kodak24-50-sadnet": ("29.64", "dB"),
        "000-t3-kodak24-50-sadnet-replication": ("29.86", "dB"),
        "000-t3-bsd68-30-sadnet-replication": ("30.58", "dB"),
        "001-t3-kodak24-50-cbm3d": ("28.63", "dB"),
        "001-t2-bsd68-70-memnet": ("25.09", "dB"),
        "001-t1-kodak24-50-rsab-context": ("29.60", "dB"),
        "001-t4-dnd-sadnet-1248-ssim": ("0.9544", ""),
        "001-t6-nam-cbdnetstar-psnr": ("41.31", "dB"),
        "001-t7-sadnet-parameters": ("4321", "k"),
        "001-t7-rnan-time": ("1072.2", "ms"),
        "000-t2-sidd-validation-sadnet-replication": ("39.41", "dB"),
        "000-t1-convout-channels-in": ("35", "channels"),
    }
    for name, (value, unit) in known.items():
        assert (LEDGER.loc[name, "value"], LEDGER.loc[name, "unit"]) == (value, unit), name


@pytest.mark.parametrize(
    ("source", "table", "cells"),
    [
        ("001", "Table 1", 6), ("001", "Table 2", 42), ("001", "Table 3", 42), ("001", "Table 4", 28),
        ("001", "Table 5", 6), ("001", "Table 6", 12), ("001", "Table 7", 15), ("000", "Table 2", 7),
        ("000", "Table 3", 48),
    ],
)  # fmt: skip
def test_every_cell_of_a_table_is_there(source, table, cells):
    assert len(claims.find(LEDGER, source=source, table=table)) == cells


def test_ids_are_unique_and_readable():
    assert LEDGER["id"].is_unique
    assert LEDGER["id"].str.fullmatch(r"00[0-4]-[a-z0-9-]+").all()


def test_copies_in_the_replication_equal_the_paper():
    copied = LEDGER[(LEDGER["source"] == "000") & (LEDGER["table"] == "Table 3") & (LEDGER["variant"] == "")]
    assert (copied["attributed_to"] == "001").all()
    originals = LEDGER.loc[[i.replace("000-", "001-", 1) for i in copied["id"]], "value"]
    assert copied["value"].tolist() == originals.tolist()


def test_values_are_kept_as_printed():
    assert LEDGER.loc["001-t1-kodak24-50-rsab-context", "value"] == "29.60"
    assert LEDGER.loc["001-t1-kodak24-50-rsab-context", "number"] == 29.6
    assert LEDGER.loc["000-summary-gpu-memory", "approx"]
    assert not LEDGER.loc["000-summary-training-time", "approx"]


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("metric", "quality", "unknown metric"), ("source", "009", "source"),
        ("value", "about 3", "no number"), ("sigma_255", "fifty", "sigma_255"),
        ("approx", "yes", "approx"), ("colour", "blue", "colour"),
    ],
)  # fmt: skip
def test_a_broken_row_is_named(tmp_path, column, value, says):
    frame = pd.read_csv(claims.files.results() / "claims.csv", dtype=str, keep_default_na=False)
    frame.loc[7, column] = value
    frame.to_csv(tmp_path / "claims.csv", index=False)
    with pytest.raises(ReproError, match=rf"{frame.loc[7, 'id']}.*{says}"):
        claims.load(tmp_path / "claims.csv")


def test_patterns_choose_ids():
    assert set(claims.match(LEDGER, ["001-t3-kodak24-*-sadnet"])["sigma_255"]) == {30, 50, 70}


def test_data_sets_by_printed_name():
    assert claims.dataset_name(LEDGER.loc["001-t3-bsd68-50-sadnet"]) == "cbsd68"
    assert claims.dataset_name(LEDGER.loc["001-t2-bsd68-50-sadnet"]) == "bsd68"
    assert claims.dataset_name(LEDGER.loc["001-t4-dnd-sadnet-psnr"]) is None
