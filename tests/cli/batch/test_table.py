"""Tables: read in every form, checked whole, and named line by line where they are wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio.to_thread
import pytest

from kie_async import ConfigurationError, KieClient, Problem, Request
from kie_async._core.map_options import file_name
from kie_async.cli.batch.columns import columns_for_model
from kie_async.cli.batch.rows import MAX_LINE_BYTES
from kie_async.cli.batch.table import Table
from kie_async.requests.images import MAX_BYTES
from kie_async.testing import FakeKie
from tests.cli.batch.bad_rows import BAD_ROWS, BadRow, prepare
from tests.cli.helpers import CAT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a picture of a cat."""
    shutil.copy(CAT, tmp_path / "cat.jpg")
    return tmp_path


def table(
    folder: Path,
    name: str,
    content: str | bytes,
    *,
    model: str | None = None,
    defaults: Mapping[str, str] | None = None,
) -> Table:
    """A table of this content."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return Table(path=path, columns=columns_for_model(model), defaults=defaults or {})


def flaws(table: Table) -> Sequence[tuple[int, str, str, str]]:
    """Line, column, value and what is allowed, of everything that is wrong."""
    return [(flaw.line, flaw.problem.field, flaw.problem.value, flaw.problem.allowed) for flaw in table.check()]


def inputs(table: Table) -> Sequence[tuple[int, Mapping[str, object]]]:
    """What each row sends, the name of the uploaded image in place of its URL; the table has no flaw."""
    assert [] == flaws(table)
    return [
        (shot.line, shot.request.input({"image_url": "" if shot.image is None else shot.image.suffix}))
        for shot in table.prepared_rows()
    ]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all the files that bad rows name."""
    folder = tmp_path_factory.mktemp("bad")
    shutil.copy(CAT, folder / "cat.jpg")
    prepare(folder)
    return folder


@pytest.mark.parametrize("bad", BAD_ROWS, ids=lambda bad: bad.name)
def test_a_bad_row_is_named_with_line_column_value_and_what_is_allowed(prepared: Path, bad: BadRow) -> None:
    """Each kind of bad row, between two good ones, which are not blamed."""
    found = flaws(table(prepared, bad.file, bad.between_good_ones()))

    assert [(bad.line, bad.column)] == [(line, column) for line, column, _, _ in found]
    [(_, _, value, allowed)] = found
    assert bad.value in value
    assert bad.allowed in allowed


def test_there_are_thirty_kinds_of_bad_rows() -> None:
    assert 30 <= len({bad.name for bad in BAD_ROWS})


def test_a_csv_says_what_its_rows_are(folder: Path) -> None:
    """Quotes, line breaks, blank lines, types, and the line on which each row begins."""
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
    ] == inputs(table(folder, "shots.csv", text))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_cells_stand_between_commas_semicolons_or_tabs(folder: Path, delimiter: str) -> None:
    text = "\n".join(delimiter.join(row) for row in [("image", "prompt", "seed"), ("cat.jpg", "Go", "7")])

    assert [(2, {"image_url": ".jpg", "prompt": "Go", "seed": 7})] == inputs(table(folder, "shots.csv", text))


def test_a_byte_order_mark_is_no_part_of_a_name(folder: Path) -> None:
    text = "\N{ZERO WIDTH NO-BREAK SPACE}image,prompt\ncat.jpg,Go\n"

    assert [(2, {"image_url": ".jpg", "prompt": "Go"})] == inputs(table(folder, "shots.csv", text))


def test_a_jsonl_has_types(folder: Path) -> None:
    text = '{"image": "cat.jpg", "prompt": "Go", "seed": 7, "nsfw_checker": false, "resolution": null}\n\n'

    assert [(1, {"image_url": ".jpg", "prompt": "Go", "seed": 7, "nsfw_checker": False})] == inputs(
        table(folder, "shots.jsonl", text)
    )


def test_a_folder_is_a_row_for_each_image(folder: Path) -> None:
    """By name; the prompt and all else is the same for all."""
    shutil.copy(CAT, folder / "a.JPEG")
    (folder / "notes.txt").write_text("no image")
    own = Table(path=folder, columns=columns_for_model(None), defaults={"prompt": "Go", "seed": "7"})

    assert [(n, {"image_url": ".jpg", "prompt": "Go", "seed": 7}) for n in (1, 2)] == inputs(own)
    assert ["a.JPEG", "cat.jpg"] == [shot.source for shot in own.prepared_rows()]


def test_a_folder_needs_a_prompt_and_an_image(folder: Path) -> None:
    (folder / "empty").mkdir()
    empty = Table(path=folder / "empty", columns=columns_for_model(None), defaults={"prompt": "Go"})

    assert [(1, "prompt", "no such column", "a column, or --prompt for all rows")] == flaws(
        Table(path=folder, columns=columns_for_model(None))
    )
    assert [(1, "folder", "no image")] == [flaw[:3] for flaw in flaws(empty)]


def test_defaults_fill_what_a_row_lacks(folder: Path) -> None:
    """An empty cell is one that is lacking; what a table says itself counts more."""
    text = "image,seed\ncat.jpg,7\ncat.jpg,\n"
    seeds = table(folder, "shots.csv", text, defaults={"prompt": "Go", "seed": "9"})

    assert [7, 9] == [row["seed"] for _, row in inputs(seeds)]


def test_a_default_may_be_as_wrong_as_a_cell(folder: Path) -> None:
    wrong = table(folder, "shots.csv", "image,prompt\ncat.jpg,Go\n", defaults={"resolution": "1080p"})
    unknown = table(folder, "shots.csv", "image,prompt\ncat.jpg,Go\n", defaults={"sead": "7"})

    assert [(2, "resolution", "'1080p'")] == [flaw[:3] for flaw in flaws(wrong)]
    [(line, option, value, allowed)] = flaws(unknown)
    assert (1, "--set", "'sead'", True) == (line, option, value, allowed.endswith("(did you mean 'seed'?)"))


def test_the_names_of_columns_are_judged_once_and_not_in_each_row(folder: Path) -> None:
    """The nearest name is there; the rest of the table is checked all the same."""
    found = flaws(table(folder, "shots.csv", "image,promt,seed,seed,\ncat.jpg,Go,7,7,\nno.jpg,Go,7,7,\n"))

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
def test_a_table_without_rows_is_no_table(folder: Path, name: str, content: bytes, said: str) -> None:
    [(line, _, value, _)] = flaws(table(folder, name, content))

    assert 1 == line
    assert said in value


def test_a_file_that_is_no_table_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"Invalid table .*cat\.jpg: expected .*\.csv"):
        flaws(Table(path=folder / "cat.jpg", columns=columns_for_model(None)))


def test_a_line_without_end_is_not_held(folder: Path) -> None:
    """It is refused, and the next one is read; a million bytes more would not cost more memory."""
    long = b'{"prompt": "' + b"a" * (3 * MAX_LINE_BYTES) + b'"}\n'
    found = flaws(table(folder, "shots.jsonl", long + b'{"image": "cat.jpg", "prompt": "Go", "seed": -1}\n'))

    assert [(1, "line"), (2, "seed")] == [flaw[:2] for flaw in found]


def test_another_model_has_the_columns_that_it_likes(folder: Path) -> None:
    """Texts are texts; a column that ends in ``:json`` holds anything."""
    text = 'key,prompt,duration,image_urls:json\na,Go,5,"[""https://example.com/cat.png""]"\nb,Go,,{\n'
    other = table(folder, "shots.csv", text, model="wan/2-5")

    assert [(3, "image_urls:json", "'{'")] == [flaw[:3] for flaw in flaws(other)]
    good = table(folder, "good.csv", text.removesuffix("b,Go,,{\n"), model="wan/2-5")
    assert [(2, {"prompt": "Go", "duration": "5", "image_urls": ["https://example.com/cat.png"]})] == inputs(good)


def test_default_keys_do_not_depend_on_row_order(folder: Path) -> None:
    """Equal content has equal keys with an occurrence number, whatever the image's name is."""
    shutil.copy(CAT, folder / "dog.jpg")
    rows = ["cat.jpg,Go,", "cat.jpg,Go,", "dog.jpg,Go,", "cat.jpg,Stop,", "cat.jpg,Go,mine"]

    def keys(rows: Sequence[str]) -> list[str]:
        mine = table(folder, "shots.csv", "\n".join(["image,prompt,key", *rows]))
        assert [] == flaws(mine)
        return [row.key for row in mine.prepared_rows()]

    first, second, dog, other, own = keys(rows)

    assert (f"{first}.2", f"{first}.3", "mine") == (second, dog, own)
    assert other not in (first, second, dog)
    assert sorted([first, other, own]) == sorted(keys([rows[4], rows[3], rows[0]]))


async def test_default_keys_are_those_of_map(folder: Path) -> None:
    """A row has the same key in ``map()`` and in ``batch``."""
    mine = table(folder, "shots.csv", "image,prompt,seed\ncat.jpg,Go,7\ncat.jpg,Go,7\ncat.jpg,Stop,\n")
    assert [] == await anyio.to_thread.run_sync(flaws, mine)
    rows = await anyio.to_thread.run_sync(lambda: list(mine.prepared_rows()))
    async with (
        FakeKie(duration=1.0) as fake,
        KieClient("any-key", base_url=fake.url) as kie,
        kie.map([row.request for row in rows]) as run,
    ):
        outcomes = [outcome async for outcome in run]

    assert {row.key for row in rows} == {outcome.key for outcome in outcomes}
    assert 3 == len({row.key for row in rows})


def test_the_content_of_an_image_is_a_part_of_what_is_sent(folder: Path) -> None:
    same = table(folder, "shots.csv", "image,prompt\ncat.jpg,Go\n")
    assert [] == flaws(same)
    [before] = same.prepared_rows()
    shutil.copy(CAT.with_name("city.jpg"), folder / "cat.jpg")
    [after] = same.prepared_rows()

    assert before.key != after.key
    assert before.input_hash != after.input_hash


def test_a_table_that_changes_after_it_was_checked_is_not_sent(folder: Path) -> None:
    changed = table(folder, "shots.csv", "image,prompt\ncat.jpg,Go\n")
    assert [] == flaws(changed)
    changed.path.write_text("image,prompt\ncat.jpg,Come\n")

    with pytest.raises(ConfigurationError, match="has changed since it was checked"):
        next(changed.prepared_rows())


def test_a_folder_that_changes_after_it_was_checked_is_not_sent(folder: Path) -> None:
    changed = Table(path=folder, columns=columns_for_model(None), defaults={"prompt": "Go"})
    assert [] == flaws(changed)
    shutil.copy(CAT, folder / "dog.jpg")

    with pytest.raises(ConfigurationError, match="has changed since it was checked"):
        next(changed.prepared_rows())


def test_a_table_that_changes_while_it_is_read_is_noticed_at_its_end(folder: Path) -> None:
    changed = table(folder, "shots.csv", "image,prompt\n" + "cat.jpg,Go\n" * 50_000)
    changed.columns = columns_for_model("any/model")
    assert [] == flaws(changed)
    shots = changed.prepared_rows()
    next(shots)
    with changed.path.open("a") as file:
        file.write("cat.jpg,Come\n")

    with pytest.raises(ConfigurationError, match="has changed since it was checked"):
        for _ in shots:
            pass


def test_an_image_that_is_gone_by_the_time_it_is_sent_does_not_end_the_rest(folder: Path) -> None:
    """The client, which looks at every request again, refuses it."""
    shutil.copy(CAT, folder / "dog.jpg")
    gone = table(folder, "shots.csv", "image,prompt\ncat.jpg,Go\ndog.jpg,Go\n")
    assert [] == flaws(gone)
    (folder / "cat.jpg").unlink()
    first, second = gone.prepared_rows()

    assert ["image"] == [problem.field for problem in first.request.problems()]
    assert [] == second.request.problems()
    assert json.dumps(first.fields)


def test_too_large_is_measured_as_the_service_does(folder: Path) -> None:
    (folder / "cat.jpg").write_bytes(CAT.read_bytes() + bytes(MAX_BYTES))

    [(_, column, _, allowed)] = flaws(table(folder, "shots.csv", "image,prompt\ncat.jpg,Go\n"))
    assert ("image", True) == (column, f"has more than {MAX_BYTES} bytes" in allowed)


def test_the_check_names_the_rows_as_they_are_sent(folder: Path) -> None:
    """In one pass over the table, where a second start looks up what is done."""
    path = folder / "shots.csv"
    path.write_text("key,image,prompt\nmine,cat.jpg,Go\n,cat.jpg,Go\n,cat.jpg,Go\n,cat.jpg,Stop\n")
    mine = Table(path=path, columns=columns_for_model(None))
    told: list[tuple[str, str]] = []

    def judge(_: Request, *row: str) -> list[Problem]:
        told.append((row[0], row[1]))
        return []

    assert [] == [*mine.check(judge), *mine.check(judge, with_keys=True)]
    assert [("mine", ""), ("", ""), ("", ""), ("", "")] == told[:4]
    assert told[4:] == [(shot.key, shot.input_hash) for shot in mine.prepared_rows()]


def test_a_key_that_another_row_would_get_is_named_where_rows_are_named(folder: Path) -> None:
    """Such as one that was copied from the manifest."""
    path = folder / "shots.csv"
    path.write_text("image,prompt\ncat.jpg,Go\n")
    mine = Table(path=path, columns=columns_for_model(None))
    assert [] == list(mine.check())
    [shot] = mine.prepared_rows()
    path.write_text(f"key,image,prompt\n,cat.jpg,Go\n{shot.key},cat.jpg,Stop\n")

    assert [(3, "key")] == [(flaw.line, flaw.problem.field) for flaw in mine.check(with_keys=True)]


def test_rows_and_files_that_nobody_meant_are_passed_over(folder: Path) -> None:
    """What spreadsheets and desktops leave behind."""
    shots = table(folder, "shots.csv", "\ufeffimage;prompt\r\ncat.jpg;Go\r\n;\r\n\r\n;\r\n")
    (folder / "._cat.jpg").write_bytes(b"not an image")

    assert [] == flaws(shots)
    assert [2] == [shot.line for shot in shots.prepared_rows()]
    images = Table(path=folder, columns=columns_for_model(None), defaults={"prompt": "Go"})
    assert [] == list(images.check())
    assert ["cat.jpg"] == [shot.source for shot in images.prepared_rows()]


def test_odd_files_among_images_are_named(folder: Path) -> None:
    (folder / "away.png").symlink_to(folder / "gone.png")
    (folder / "box.jpg").mkdir()
    (folder / "\x1b[2J.jpg").write_bytes(CAT.read_bytes())
    images = Table(path=folder, columns=columns_for_model(None), defaults={"prompt": "Go"})
    found = [str(flaw) for flaw in images.check()]

    assert 2 == len(found)
    assert "'away.png'; allowed: an image; No such file or directory" in found[0]
    assert "box.jpg" in found[1]


@pytest.mark.parametrize(
    ("keys", "line"),
    [(["Shot", "shot"], 3), (["STRASSE", "strasse"], 3), (["a~retry1", "b"], 2)],
)
def test_keys_whose_files_or_jobs_would_be_one_are_named(folder: Path, keys: Sequence[str], line: int) -> None:
    rows = "".join(f"{key},cat.jpg,Go\n" for key in keys)

    assert [(line, "key")] == [flaw[:2] for flaw in flaws(table(folder, "shots.csv", f"key,image,prompt\n{rows}"))]


def test_keys_that_look_alike_have_files_of_their_own(folder: Path) -> None:
    """Whatever is not ASCII is spelt out in their names."""
    keys = ["Ä", "ä", "a\u0308", "a/b", "a%2Fb", "a b", "..", "con"]
    rows = "".join(f"{key},cat.jpg,Go\n" for key in keys)

    assert [] == flaws(table(folder, "shots.csv", f"key,image,prompt\n{rows}"))
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
def test_what_spreadsheets_save_wrongly_is_told_in_plain_words(
    folder: Path, content: str | bytes, line: int, got: str, allowed: str
) -> None:
    [found] = flaws(table(folder, "shots.csv", content))

    assert line == found[0]
    assert got in found[2]
    assert allowed in found[3]


def test_a_table_that_changes_while_it_is_read_is_told(folder: Path) -> None:
    """Before the first row, or after the last: what was sent meanwhile is known by its key."""
    mine = table(folder, "shots.csv", "image,prompt\n" + f"cat.jpg,{'Go ' * 1000}\n" * 100)
    assert [] == flaws(mine)
    rows = mine.prepared_rows()
    assert 2 == next(rows).line
    mine.path.write_text("image,prompt\ncat.jpg,Something else\n")

    for shots in (rows, mine.prepared_rows()):
        with pytest.raises(ConfigurationError, match="has changed since it was checked"):
            list(shots)
