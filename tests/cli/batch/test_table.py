"""Tables: every format is read, and every problem is reported with its line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio.to_thread
import pytest

from kie_async import ConfigurationError, KieClient, Problem, Request
from kie_async._core.map_options import file_name
from kie_async.cli.batch.rows import MAX_LINE_BYTES
from kie_async.cli.batch.table import Table
from kie_async.requests.media import MAX_BYTES
from kie_async.testing import FakeKie
from tests.cli.batch.bad_rows import BAD_ROWS, BadRow, prepare
from tests.cli.helpers import CAT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with an image of a cat."""
    shutil.copy(CAT, tmp_path / "cat.jpg")
    return tmp_path


def make_table(
    folder: Path,
    name: str,
    content: str | bytes,
    *,
    model: str | None = None,
    defaults: Mapping[str, str] | None = None,
) -> Table:
    """Write a table, and return it."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return Table(path=path, model=model, defaults=defaults or {})


def table_problems(table: Table) -> Sequence[tuple[int, str, str, str]]:
    """Return line, column, value and allowed values of each problem."""
    return [
        (problem.line, problem.problem.field, problem.problem.value, problem.problem.allowed)
        for problem in table.check()
    ]


def inputs(table: Table) -> Sequence[tuple[int, Mapping[str, object]]]:
    """Return line and input of each row of a valid table; a local image is shown by its suffix."""
    assert [] == table_problems(table)
    return [
        (shot.line, shot.request.input({"image_url": "" if shot.image is None else shot.image.suffix}))
        for shot in table.prepared_rows()
    ]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all the files that bad rows name."""
    folder = tmp_path_factory.mktemp("bad")
    shutil.copy(CAT, folder / "cat.jpg")
    prepare(folder)
    return folder


@pytest.mark.parametrize("bad", BAD_ROWS, ids=lambda bad: bad.name)
def test_bad_row_is_reported(prepared: Path, bad: BadRow) -> None:
    """Only the bad row is reported, with its line, column, value and allowed values."""
    found = table_problems(make_table(prepared, bad.file, bad.between_good_ones()))

    assert [(bad.line, bad.column)] == [(line, column) for line, column, _, _ in found]
    [(_, _, value, allowed)] = found
    assert bad.value in value
    assert bad.allowed in allowed


def test_there_are_thirty_kinds_of_bad_rows() -> None:
    assert 30 <= len({bad.name for bad in BAD_ROWS})


def test_csv_cells_become_typed_input(folder: Path) -> None:
    """Quotes, line breaks and blank lines are handled; each row has the line on which it begins."""
    text = (
        "image,prompt,seed,enable_prompt_expansion,nsfw_checker\r\n"
        'cat.jpg,"It says ""hi"", and\r\nturns",7,TRUE,no\r\n'
        "\r\n"
        "https://example.com/cat.png,Go,,,\r\n"
    )

    assert [
        (
            2,
            {
                "image_url": ".jpg",
                "prompt": 'It says "hi", and\r\nturns',
                "seed": 7,
                "enable_prompt_expansion": True,
                "nsfw_checker": False,
            },
        ),
        (5, {"image_url": "https://example.com/cat.png", "prompt": "Go"}),
    ] == inputs(make_table(folder, "shots.csv", text))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_delimiter_is_detected(folder: Path, delimiter: str) -> None:
    text = "\n".join(delimiter.join(row) for row in [("image", "prompt", "seed"), ("cat.jpg", "Go", "7")])

    assert [(2, {"image_url": ".jpg", "prompt": "Go", "seed": 7})] == inputs(make_table(folder, "shots.csv", text))


def test_byte_order_mark_is_ignored(folder: Path) -> None:
    text = "\N{ZERO WIDTH NO-BREAK SPACE}image,prompt\ncat.jpg,Go\n"

    assert [(2, {"image_url": ".jpg", "prompt": "Go"})] == inputs(make_table(folder, "shots.csv", text))


def test_jsonl_values_keep_their_types(folder: Path) -> None:
    text = '{"image": "cat.jpg", "prompt": "Go", "seed": 7, "nsfw_checker": false, "resolution": null}\n\n'

    assert [(1, {"image_url": ".jpg", "prompt": "Go", "seed": 7, "nsfw_checker": False})] == inputs(
        make_table(folder, "shots.jsonl", text)
    )


def test_folder_has_a_row_per_image(folder: Path) -> None:
    """Rows are sorted by name, and share prompt and options."""
    shutil.copy(CAT, folder / "a.JPEG")
    (folder / "notes.txt").write_text("no image")
    images = Table(path=folder, model=None, defaults={"prompt": "Go", "seed": "7"})

    assert [(n, {"image_url": ".jpg", "prompt": "Go", "seed": 7}) for n in (1, 2)] == inputs(images)
    assert ["a.JPEG", "cat.jpg"] == [row.source for row in images.prepared_rows()]


def test_folder_needs_a_prompt_and_an_image(folder: Path) -> None:
    (folder / "empty").mkdir()
    empty = Table(path=folder / "empty", model=None, defaults={"prompt": "Go"})

    assert [(1, "--prompt", "nothing", "--prompt for all images of a folder")] == table_problems(Table(path=folder))
    assert [(1, "folder", "no image")] == [problem[:3] for problem in table_problems(empty)]


def test_defaults_fill_empty_cells(folder: Path) -> None:
    """Cells of the table take precedence."""
    text = "image,seed\ncat.jpg,7\ncat.jpg,\n"
    seeds = make_table(folder, "shots.csv", text, defaults={"prompt": "Go", "seed": "9"})

    assert [7, 9] == [row["seed"] for _, row in inputs(seeds)]


def test_invalid_default_is_reported(folder: Path) -> None:
    wrong = make_table(folder, "shots.csv", "image,prompt\ncat.jpg,Go\n", defaults={"resolution": "1080p"})
    unknown = make_table(folder, "shots.csv", "image,prompt\ncat.jpg,Go\n", defaults={"sead": "7"})

    assert [(2, "resolution", "'1080p'")] == [problem[:3] for problem in table_problems(wrong)]
    [(line, option, value, allowed)] = table_problems(unknown)
    assert (1, "--set", "'sead'", True) == (line, option, value, allowed.endswith("(did you mean 'seed'?)"))


def test_column_names_are_checked_once(folder: Path) -> None:
    """The closest name is suggested, and the rest of the table is still checked."""
    found = table_problems(make_table(folder, "shots.csv", "image,promt,,seed,seed\ncat.jpg,Go,,7,7\nno.jpg,Go,,7,7\n"))

    assert [(1, "'promt'"), (1, "a column without a name"), (1, "'seed' 2 times"), (1, "no such column")] == [
        (line, value) for line, _, value, _ in found[:-1]
    ]
    assert found[0][3].endswith("(did you mean 'prompt'?)")
    assert (3, "image") == found[-1][:2]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("shots.csv", b"", "nothing"),
        ("shots.csv", b"image,prompt\n", "no rows"),
        ("shots.jsonl", b"\n\n", "no rows"),
        ("shots.csv", "image,prompt\n".encode("utf-16"), "UTF-16"),
        ("shots.csv", b'"image,prompt\n', 'a " that is never closed'),
        ("shots.csv", b"im\xffage,prompt\n", "byte 0xff at place 3"),
    ],
)
def test_table_without_rows_is_invalid(folder: Path, name: str, content: bytes, said: str) -> None:
    [(line, _, value, _)] = table_problems(make_table(folder, name, content))

    assert 1 == line
    assert said in value


def test_unknown_file_type_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"Invalid table .*cat\.jpg: expected .*\.csv"):
        table_problems(Table(path=folder / "cat.jpg"))


def test_overlong_line_is_refused(folder: Path) -> None:
    """The next line is still read."""
    long = b'{"prompt": "' + b"a" * (3 * MAX_LINE_BYTES) + b'"}\n'
    found = table_problems(
        make_table(folder, "shots.jsonl", long + b'{"image": "cat.jpg", "prompt": "Go", "seed": -1}\n')
    )

    assert [(1, "line"), (2, "seed")] == [problem[:2] for problem in found]


def test_other_models_accept_any_column(folder: Path) -> None:
    """Cells are strings; a column that ends in ``:json`` has any type."""
    text = 'key,prompt,duration,image_urls:json\na,Go,5,"[""https://example.com/cat.png""]"\nb,Go,,{\n'
    other = make_table(folder, "shots.csv", text, model="wan/2-5")

    assert [(3, "image_urls:json", "'{'")] == [problem[:3] for problem in table_problems(other)]
    good = make_table(folder, "good.csv", text.removesuffix("b,Go,,{\n"), model="wan/2-5")
    assert [(2, {"prompt": "Go", "duration": "5", "image_urls": ["https://example.com/cat.png"]})] == inputs(good)


def test_default_keys_do_not_depend_on_row_order(folder: Path) -> None:
    """Rows with equal content differ in an occurrence number; the image's name does not matter."""
    shutil.copy(CAT, folder / "dog.jpg")
    rows = ["cat.jpg,Go,", "cat.jpg,Go,", "dog.jpg,Go,", "cat.jpg,Stop,", "cat.jpg,Go,mine"]

    def keys(rows: Sequence[str]) -> list[str]:
        shots = make_table(folder, "shots.csv", "\n".join(["image,prompt,key", *rows]))
        assert [] == table_problems(shots)
        return [row.key for row in shots.prepared_rows()]

    first, second, dog, other, own = keys(rows)

    assert (f"{first}.2", f"{first}.3", "mine") == (second, dog, own)
    assert other not in (first, second, dog)
    assert sorted([first, other, own]) == sorted(keys([rows[4], rows[3], rows[0]]))


async def test_default_keys_are_those_of_map(folder: Path) -> None:
    """A row has the same key in ``map()`` and in ``batch``."""
    shots = make_table(folder, "shots.csv", "image,prompt,seed\ncat.jpg,Go,7\ncat.jpg,Go,7\ncat.jpg,Stop,\n")
    assert [] == await anyio.to_thread.run_sync(table_problems, shots)
    rows = await anyio.to_thread.run_sync(lambda: list(shots.prepared_rows()))
    async with (
        FakeKie(duration=1.0) as fake,
        KieClient("any-key", base_url=fake.url) as kie,
        kie.map([row.request for row in rows]) as run,
    ):
        outcomes = [outcome async for outcome in run]

    assert {row.key for row in rows} == {outcome.key for outcome in outcomes}
    assert 3 == len({row.key for row in rows})


def test_image_content_changes_the_key(folder: Path) -> None:
    same = make_table(folder, "shots.csv", "image,prompt\ncat.jpg,Go\n")
    assert [] == table_problems(same)
    [before] = same.prepared_rows()
    shutil.copy(CAT.with_name("city.jpg"), folder / "cat.jpg")
    [after] = same.prepared_rows()

    assert before.key != after.key
    assert before.input_hash != after.input_hash


def test_changed_table_is_not_sent(folder: Path) -> None:
    changed = make_table(folder, "shots.csv", "image,prompt\ncat.jpg,Go\n")
    assert [] == table_problems(changed)
    changed.path.write_text("image,prompt\ncat.jpg,Come\n")

    with pytest.raises(ConfigurationError, match="has changed since it was checked"):
        next(changed.prepared_rows())


def test_changed_folder_is_not_sent(folder: Path) -> None:
    changed = Table(path=folder, model=None, defaults={"prompt": "Go"})
    assert [] == table_problems(changed)
    shutil.copy(CAT, folder / "dog.jpg")

    with pytest.raises(ConfigurationError, match="has changed since it was checked"):
        next(changed.prepared_rows())


def test_growing_table_is_noticed_at_its_end(folder: Path) -> None:
    changed = make_table(folder, "shots.csv", "image,prompt\n" + "cat.jpg,Go\n" * 10_000)
    changed.model = "any/model"
    assert [] == table_problems(changed)
    rows = changed.prepared_rows()
    next(rows)
    with changed.path.open("a") as file:
        file.write("cat.jpg,Come\n")

    with pytest.raises(ConfigurationError, match="has changed since it was checked"):
        for _ in rows:
            pass


def test_missing_image_affects_only_its_row(folder: Path) -> None:
    """The client checks every request again and refuses it."""
    shutil.copy(CAT, folder / "dog.jpg")
    gone = make_table(folder, "shots.csv", "image,prompt\ncat.jpg,Go\ndog.jpg,Go\n")
    assert [] == table_problems(gone)
    (folder / "cat.jpg").unlink()
    first, second = gone.prepared_rows()

    assert ["image"] == [problem.field for problem in first.request.problems()]
    assert [] == second.request.problems()
    assert json.dumps(first.fields)


def test_image_size_limit_is_the_services(folder: Path) -> None:
    (folder / "cat.jpg").write_bytes(CAT.read_bytes() + bytes(MAX_BYTES))

    [(_, column, _, allowed)] = table_problems(make_table(folder, "shots.csv", "image,prompt\ncat.jpg,Go\n"))
    assert ("image", True) == (column, f"has more than {MAX_BYTES} bytes" in allowed)


def test_check_uses_the_submitted_keys(folder: Path) -> None:
    """A resumed run looks up finished rows by them."""
    path = folder / "shots.csv"
    path.write_text("key,image,prompt\nmine,cat.jpg,Go\n,cat.jpg,Go\n,cat.jpg,Go\n,cat.jpg,Stop\n")
    shots = Table(path=path)
    seen: list[tuple[str, str]] = []

    def check_row(_: Request, *row: str) -> list[Problem]:
        seen.append((row[0], row[1]))
        return []

    assert [] == [*shots.check(check_row), *shots.check(check_row, with_keys=True)]
    assert [("mine", ""), ("", ""), ("", ""), ("", "")] == seen[:4]
    assert seen[4:] == [(row.key, row.input_hash) for row in shots.prepared_rows()]


def test_key_equal_to_a_default_key_is_refused(folder: Path) -> None:
    """The user may have copied it from the manifest."""
    path = folder / "shots.csv"
    path.write_text("image,prompt\ncat.jpg,Go\n")
    shots = Table(path=path)
    assert [] == list(shots.check())
    [row] = shots.prepared_rows()
    path.write_text(f"key,image,prompt\n,cat.jpg,Go\n{row.key},cat.jpg,Stop\n")

    assert [(3, "key")] == [(problem.line, problem.problem.field) for problem in shots.check(with_keys=True)]


@pytest.mark.parametrize("with_keys", [False, True])
def test_missing_image_column_is_the_only_problem(folder: Path, with_keys: bool) -> None:  # noqa: FBT001 (a parameter of the test)
    """Its rows have no image to hash, and are not valid."""
    shots = make_table(folder, "shots.csv", "prompt\nGo\nStop\n")

    def check_row(*_: object) -> list[Problem]:
        raise AssertionError

    assert [(1, "image")] == [
        (problem.line, problem.problem.field) for problem in shots.check(check_row, with_keys=with_keys)
    ]


def test_tab_in_a_message_is_escaped(folder: Path) -> None:
    [found] = make_table(folder, "shots.tsv", '"image"x\tprompt\n').check()

    assert "expected after" in str(found)
    assert str(found).isprintable()


def test_empty_rows_and_hidden_files_are_skipped(folder: Path) -> None:
    """Spreadsheets and desktops leave them behind."""
    shots = make_table(folder, "shots.csv", "\ufeffimage;prompt\r\ncat.jpg;Go\r\n;\r\n\r\n;\r\n")
    (folder / "._cat.jpg").write_bytes(b"not an image")

    assert [] == table_problems(shots)
    assert [2] == [row.line for row in shots.prepared_rows()]
    images = Table(path=folder, model=None, defaults={"prompt": "Go"})
    assert [] == list(images.check())
    assert ["cat.jpg"] == [row.source for row in images.prepared_rows()]


def test_unreadable_images_are_reported(folder: Path) -> None:
    (folder / "away.png").symlink_to(folder / "gone.png")
    (folder / "box.jpg").mkdir()
    (folder / "\x1b[2J.jpg").write_bytes(CAT.read_bytes())
    images = Table(path=folder, model=None, defaults={"prompt": "Go"})
    found = [str(problem) for problem in images.check()]

    assert 2 == len(found)
    assert "'away.png'; allowed: an image; No such file or directory" in found[0]
    assert "box.jpg" in found[1]


@pytest.mark.parametrize(
    ("keys", "line"),
    [(["Shot", "shot"], 3), (["STRASSE", "strasse"], 3), (["a~retry1", "b"], 2)],
)
def test_keys_with_colliding_files_or_jobs_are_refused(folder: Path, keys: Sequence[str], line: int) -> None:
    rows = "".join(f"{key},cat.jpg,Go\n" for key in keys)

    assert [(line, "key")] == [
        problem[:2] for problem in table_problems(make_table(folder, "shots.csv", f"key,image,prompt\n{rows}"))
    ]


def test_similar_keys_have_separate_files(folder: Path) -> None:
    """File names escape characters that are not ASCII."""
    keys = ["Ä", "ä", "a\u0308", "a/b", "a%2Fb", "a b", "..", "con"]
    rows = "".join(f"{key},cat.jpg,Go\n" for key in keys)

    assert [] == table_problems(make_table(folder, "shots.csv", f"key,image,prompt\n{rows}"))
    assert len(keys) == len({file_name(key).lower() for key in keys})


@pytest.mark.parametrize(
    ("content", "line", "got", "allowed"),
    [
        ('image,prompt\ncat.jpg,"Go\ncat.jpg,Go\n', 2, 'a " that is never closed', '"" within'),
        ("image,prompt\rcat.jpg,Go\r", 1, "ends in CR alone", "LF or CRLF"),
        ("image;prompt\ncat.jpg;Grün\n".encode("cp1252"), 2, "byte 0xfc at place 11", "CSV UTF-8"),
        ("image;prompt\ncat.jpg;Go\n".encode("utf-16"), 1, "UTF-16", "save it as UTF-8"),
        ("image;prompt\ncat.jpg;Go\n".encode("utf-16-le"), 1, "UTF-16", "save it as UTF-8"),
        ("image,prompt\ncat.jpg\n", 2, "1 cell", "2, one for each column"),
    ],
)
def test_spreadsheet_mistakes_are_explained(
    folder: Path, content: str | bytes, line: int, got: str, allowed: str
) -> None:
    [found] = table_problems(make_table(folder, "shots.csv", content))

    assert line == found[0]
    assert got in found[2]
    assert allowed in found[3]


def test_table_replaced_during_reading_is_noticed(folder: Path) -> None:
    """The error is raised before the first row, or after the last."""
    shots = make_table(folder, "shots.csv", "image,prompt\n" + f"cat.jpg,{'Go ' * 1000}\n" * 100)
    assert [] == table_problems(shots)
    rows = shots.prepared_rows()
    assert 2 == next(rows).line
    shots.path.write_text("image,prompt\ncat.jpg,Something else\n")

    for remaining in (rows, shots.prepared_rows()):
        with pytest.raises(ConfigurationError, match="has changed since it was checked"):
            list(remaining)
