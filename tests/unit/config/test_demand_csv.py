"""CSV files that users write: what they mean, and that everything wrong with them is said at once."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from shoal.config import csv_rows
from shoal.config.demand_csv import LABEL_ACCELERATOR, demand_of, read_demand, read_offers, read_trace
from shoal.config.diagnostics import ConfigErrors
from shoal.model.demand import Strategy

GIB = 2**30 * 10_000


@pytest.fixture
def write(tmp_path: Path):  # type: ignore[no-untyped-def]
    def written(text: str | bytes, name: str = "d.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return written


def _said(path: Path, read=read_demand) -> list[str]:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigErrors) as caught:
        read(path)
    return str(caught.value).replace(str(path), "d.csv").splitlines()


def test_rows_become_exact_amounts(write) -> None:  # type: ignore[no-untyped-def]
    (row,) = read_demand(write("cpu,memory_gib,gpu,count\n0.5,1.5,,3\n"))

    assert row.amounts == {"CPU": 5_000, "memory": 3 * GIB // 2}
    assert (row.count, row.line, row.gang) == (3, 2, "")


def test_equal_rows_are_one_class_named_after_the_first(write) -> None:  # type: ignore[no-untyped-def]
    rows = read_demand(write("cpu,count\n1,2\n2,1\n1,5\n"))

    classes, gangs = demand_of(rows)

    assert [(one.key, one.waiting) for one in classes] == [("L2", 7), ("L3", 1)]
    assert gangs == ()


def test_rows_of_a_gang_are_its_bundles(write) -> None:  # type: ignore[no-untyped-def]
    rows = read_demand(write("cpu,count,gang,strategy\n4,2,g,STRICT_SPREAD\n1,1,g,STRICT_SPREAD\n"))

    classes, (gang,) = demand_of(rows)

    assert classes == ()
    assert gang.strategy is Strategy.STRICT_SPREAD
    assert [bundle.amounts["CPU"] for bundle in gang.bundles] == [40_000, 40_000, 10_000]


def test_labels_and_gpu_models_become_selectors(write) -> None:  # type: ignore[no-untyped-def]
    (row,) = read_demand(write('cpu,gpu,gpu_model,labels\n1,1,nvidia-l4,"zone=in(a,b); tier=!spot"\n'))

    assert row.selector.hard == {"zone": "in(a,b)", "tier": "!spot", LABEL_ACCELERATOR: "L4"}


def test_a_byte_order_mark_and_blank_lines_are_nothing(write) -> None:  # type: ignore[no-untyped-def]
    assert len(read_demand(write(b"\xef\xbb\xbfcpu,count\r\n\r\n1,2\r\n , \r\n"))) == 1


def test_everything_wrong_is_said_at_once_with_its_line(write) -> None:  # type: ignore[no-untyped-def]
    path = write(
        "cpu,memory_gib,gpu,gpu_model,count,gang,strategy,labels\n"
        "x,,,,,,,\n"
        "1,-2,,,,,,\n"
        ",,,,3,,,\n"
        "1,,,L4,,,,\n"
        "1,,,,0,,,\n"
        "1,,,,2.5,,,\n"
        "1,,,,,g,STRICT_SPRED,\n"
        "1,,,,,,PACK,\n"
        "1,,,,,,,zone\n"
        "nan,,,,,,,\n"
        "0.00001,,,,,,,\n"
        "1,,,,,,,,9\n"
        "1,,,,,,,a=in()\n"
    )

    lines = _said(path)

    assert [line for line in lines if not line.startswith("hint")] == [
        "d.csv:2:1: expected some `cpu`, `memory_gib` or `gpu`, got none",
        "d.csv:2:1: cpu: expected a number, got `x`",
        "d.csv:3:1: memory_gib: expected a number from 0 to 1e+06, got `-2`",
        "d.csv:4:1: expected some `cpu`, `memory_gib` or `gpu`, got none",
        "d.csv:5:1: gpu_model: expected a `gpu` above 0 beside it, got none",
        "d.csv:6:1: count: expected a whole number from 1 to 10000000, got `0`",
        "d.csv:7:1: count: expected a whole number from 1 to 10000000, got `2.5`",
        "d.csv:8:1: strategy: expected one of PACK, SPREAD, STRICT_PACK, STRICT_SPREAD, got `STRICT_SPRED`",
        "d.csv:9:1: strategy: expected a `gang` beside it, got none",
        "d.csv:10:1: labels: expected `name=value` or `name=in(a,b)`, separated by `;`, got `zone`",
        "d.csv:11:1: expected some `cpu`, `memory_gib` or `gpu`, got none",
        "d.csv:11:1: cpu: expected a number from 0 to 1e+06, got `nan`",
        "d.csv:12:1: expected some `cpu`, `memory_gib` or `gpu`, got none",
        "d.csv:12:1: cpu: expected a multiple of 0.0001, got `0.00001`",
        "d.csv:13:1: expected 8 columns, got 9",
        "d.csv:14:1: labels: expected a label selector, got `a=in()`",
    ]
    assert "hint: did you mean `STRICT_SPREAD`?" in lines


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "an empty first line"),
        (b"cpu,count\n", "expected at least one row"),
        (b"cpus,count\n1,2\n", "did you mean `cpu`?"),
        (b"cpu,cpu\n1,2\n", "column `cpu` once"),
        (b'cpu\n"1\n', "expected a CSV row"),
        (b"cpu\n\xff\xfe\n", "expected text in UTF-8"),
        (b"cpu\n1\0\n", "a zero byte"),
        (b"," * 200 + b"\n", "an empty first line"),
        (b"a," * 200 + b"b\n", "at most 100 columns"),
        (b'cpu\n"' + b"9" * 200_000 + b'"\n', "expected a CSV row"),
        (b"cpu\n" + b"9" * 5_000 + b"\n", "expected a number from 0"),
        (b"cpu,count\n1," + b"9" * 5_000 + b"\n", "expected a whole number"),
    ],
)
def test_files_that_are_no_demand_are_refused_in_words(write, text: bytes, said: str) -> None:  # type: ignore[no-untyped-def]
    assert said in "\n".join(_said(write(text)))


def test_a_gang_has_one_strategy_and_a_limit(write) -> None:  # type: ignore[no-untyped-def]
    lines = _said(write("cpu,count,gang,strategy\n1,1,g,PACK\n1,1,g,SPREAD\n1,9000,h,\n1,9000,h,\n"))

    assert lines == [
        "d.csv:3:1: strategy: expected `PACK`, as in line 2 of the gang, got `SPREAD`",
        "d.csv:5:1: count: expected at most 10000 members in a gang, got 18000",
    ]


def test_findings_have_a_limit(write) -> None:  # type: ignore[no-untyped-def]
    lines = _said(write("cpu\n" + "x,1\n" * 5_000))

    assert len([line for line in lines if "expected" in line]) == csv_rows.FINDINGS_MAX
    assert any("more findings are not listed" in line for line in lines)


def test_a_file_has_a_limit_of_bytes_and_of_rows(write, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(csv_rows, "ROWS_MAX", 3)
    assert "at most 3 rows" in _said(write("cpu\n" + "1\n" * 4))[0]

    monkeypatch.setattr(csv_rows, "FILE_BYTES_MAX", 10)
    assert "at most 10 B" in _said(write("cpu\n" + "1\n" * 4))[0]


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    assert "regular file" in _said(tmp_path / "pipe")[0]
    assert "regular file" in _said(tmp_path)[0]
    assert "no such file" in _said(tmp_path / "none")[0]
    assert "expected a file" in _said(Path("/dev/null/x"))[0]


def test_a_trace_is_in_order_of_time_and_needs_its_columns(write) -> None:  # type: ignore[no-untyped-def]
    rows = read_trace(write("submit_s,duration_s,cpu\n60,5,1\n0,5,2\n"))

    assert [row.submit_s for row in rows] == [0.0, 60.0]
    assert "expected a column `duration_s`" in _said(write("submit_s,cpu\n0,1\n"), read_trace)[0]
    assert "duration_s: expected a number from 0.001" in _said(write("submit_s,duration_s,cpu\n0,0,1\n"), read_trace)[0]


def test_members_of_a_gang_are_submitted_together(write) -> None:  # type: ignore[no-untyped-def]
    lines = _said(write("submit_s,duration_s,cpu,gang\n0,1,1,g\n5,1,1,g\n"), read_trace)

    assert lines == ["d.csv:3:1: submit_s: expected 0, as for the rest of gang `g`, got 5"]


def test_offers_know_markets_sizes_and_unknown_prices(write) -> None:  # type: ignore[no-untyped-def]
    path = write(
        "provider,region,zone,type,market,cpu,memory_gib,gpu,usd_per_h,arch\n"
        "aws,r,z,a,spot,2,8,,0.05,x86_64\n"
        "aws,r,z,a,,2,8,,,aarch64\n"
    )

    first, second = read_offers(path)

    assert (first.key.market, first.price_usd_per_h, first.arch) == ("spot", 0.05, "amd64")
    assert (second.key.market, second.price_usd_per_h, second.arch) == ("on-demand", None, "arm64")


def test_an_offer_stands_once(write) -> None:  # type: ignore[no-untyped-def]
    lines = _said(write("type,cpu,usd_per_h\na,2,1\na,2,2\n"), read_offers)

    assert lines == ["d.csv:3:1: expected each offer once, got `///a/on-demand` again, as in line 2"]


@pytest.mark.parametrize("seed", range(5))
def test_mutations_of_a_good_file_never_raise_anything_else(write, seed: int) -> None:  # type: ignore[no-untyped-def]
    good = Path(__file__).parents[3].joinpath("examples/demand.csv").read_bytes()
    chance = random.Random(seed)

    outcomes = set()
    for _ in range(200):
        mutant = bytearray(good)
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(mutant))
            match chance.randrange(3):
                case 0:
                    mutant[at] = chance.randrange(256)
                case 1:
                    del mutant[at : at + chance.randrange(1, 20)]
                case _:
                    mutant[at:at] = chance.choice([b'"', b",", b"\n", b"\0", b"1e999", b"-", b"\xff", b";=;"])
        try:
            read_demand(write(bytes(mutant)))
            outcomes.add("read")
        except ConfigErrors as error:
            assert error.diagnostics
            outcomes.add("refused")

    assert outcomes == {"read", "refused"}
