"""Every form of file gives its rows; what is no row is told, not dropped."""

import json
import sys

import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.tasks.rows import read_rows
from tests.support.benchmarks import as_json, as_lines, as_parquet, table

ROWS = [{"id": "a", "options": ["x", "y"], "n": 1}, {"id": "b", "options": ["z", "ü"], "n": None}]
WANT = [{"id": "a", "options": ["x", "y"], "n": 1}, {"id": "b", "options": ["z", "ü"]}]


@pytest.mark.parametrize(
    ("name", "write"), [("f.json", as_json), ("f.jsonl", as_lines), ("f.parquet", as_parquet)]
)
def test_forms_give_the_same_rows(tmp_path, name, write):
    rows = read_rows(write(tmp_path / name, ROWS))
    assert [row.values for row in rows] == WANT and [row.number for row in rows] == [0, 1]
    assert all(name in row.place for row in rows)


@pytest.mark.parametrize("name", ["f.tsv", "f.csv"])
def test_tables(tmp_path, name):
    cells = ['He said "hi"', "a,b\tc", "two\nlines"]
    rows = read_rows(table(tmp_path / name, [["1", *cells[:1]], ["2", cells[1]], ["3", cells[2]]],
                           ["id", "text"]))  # fmt: skip
    assert [row.values["text"] for row in rows] == cells
    (tmp_path / name).write_text("id,text\n1\n" if name == "f.csv" else "id\ttext\n1\n")
    assert read_rows(tmp_path / name)[0].fault == "1 cells under 2 names"


def test_a_table_without_quoting(tmp_path):
    """As TSPO's are written: a cell may begin with a quotation, whole or not."""
    lines = ["id\ttext\toptions", '1\t"Sky" is by whom?\t[\'x\', "y"]', '2\t"Why\tx', "3\tWho?\ty"]
    file = tmp_path / "f.tsv"
    file.write_text("\r\n".join(lines) + "\r\n")
    rows = read_rows(file)
    assert [row.values["text"] for row in rows] == ['"Sky" is by whom?', '"Why', "Who?"]
    assert rows[0].values["options"] == "['x', \"y\"]"
    (tmp_path / "f.csv").write_text('question_id,reply\nQ0,"A\nQ1,B\nQ2,C\n')
    assert [row.values["reply"] for row in read_rows(tmp_path / "f.csv")] == ['"A', "B", "C"]
    # Rows of several lines, among them one with a quote too many: only that one is lost.
    (tmp_path / "g.csv").write_text('id,reply\n0,"a, b\nc"\n1,"d ""e"" f"\n2,"g" h\n')
    assert [row.values.get("reply") for row in read_rows(tmp_path / "g.csv")] == [
        "a, b\nc", 'd "e" f', "g h",
    ]  # fmt: skip


def test_a_folder_is_all_its_files_in_order(tmp_path):
    as_json(tmp_path / "2_b.json", ROWS[1:])
    as_lines(tmp_path / "1_a.jsonl", ROWS[:1])
    (tmp_path / "README.md").write_text("x")
    rows = read_rows(tmp_path)
    assert [row.values for row in rows] == WANT and [row.number for row in rows] == [0, 1]
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no file in it ends in"):
        read_rows(tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "want"),
    [
        ({"data": ROWS, "version": "1"}, WANT),
        ({"a": {"n": 1}, "b": {"n": 2}}, [{"id": "a", "n": 1}, {"id": "b", "n": 2}]),
        ({"a": "B", "7": "C"}, [{"id": "a", "reply": "B"}, {"id": "7", "reply": "C"}]),
        ({"acc_dict": {"count": [1, 2]}, "res_list": [{"pred": "A"}]}, [{"pred": "A"}]),
        ({"results": ROWS, "final_acc": [{"mean_acc": 0.5}]}, WANT),
        ({"tags": ["x"], "rows": ROWS}, WANT),
        # One row with a list of its own: a video of Video-MME's nested form, and of LVBench's.
        ({"video_id": "1", "questions": ROWS}, [{"video_id": "1", "questions": ROWS}]),
        ({"key": "v", "qa": ROWS}, [{"key": "v", "qa": ROWS}]),
        ([], []),
    ],
)
def test_forms_of_json(tmp_path, content, want):
    assert [row.values for row in read_rows(as_json(tmp_path / "f.json", content))] == want


def test_several_lists_of_rows_are_refused(tmp_path):
    file = as_json(tmp_path / "f.json", {"dev": ROWS, "test": ROWS})
    with pytest.raises(UserError, match=r"f.json: rows in several lists \(dev, test\); keep one"):
        read_rows(file)


def test_json_lines_under_the_name_json_and_a_byte_order_mark(tmp_path):
    file = tmp_path / "f.json"
    file.write_text("\ufeff" + "\n".join(json.dumps(row) for row in ROWS))
    assert [row.values for row in read_rows(file)] == WANT


def test_what_is_no_row_is_one_with_a_fault(tmp_path):
    file = tmp_path / "f.jsonl"
    file.write_text('{"id": "a"}\n\n{"id": \n[1]\n')
    rows = read_rows(file)
    assert [bool(row.fault) for row in rows] == [False, True, True]
    assert rows[1].place.endswith("f.jsonl:3") and "not JSON" in rows[1].fault
    assert read_rows(as_json(tmp_path / "g.json", [3]))[0].fault == "not a JSON object"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("f.txt", b"x", "none of the forms"),
        ("f.json", b"{", "not JSON"),
        ("f.jsonl", b"\xff\xfe", "not UTF-8"),
        ("f.parquet", b"PAR1 no", "damaged parquet"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_rows(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read"):
        read_rows(tmp_path / f"none{name}")


def test_without_pyarrow_the_line_that_installs_it(tmp_path, monkeypatch):
    file = as_parquet(tmp_path / "f.parquet", ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="pip install pyarrow"):
        read_rows(file)
