import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from clickherd.cli_data import app
from clickherd.data import catalog
from clickherd.errors import ConfigError, DataError

UNREACHABLE = "http://127.0.0.1:9/ml-1m.zip"
MOVIELENS = {
    "ml-1m/ratings.dat": "2::10::3::978300760\n1::20::5::978302109\n1::10::4::978301968\n",
    "ml-1m/users.dat": "1::F::1::10::48067\n2::M::56::16::02139-1234\n",
    "ml-1m/movies.dat": '10::Amélie, "La" (2001)::Comedy|Romance\n20::2001: A Space Odyssey (1968)::Sci-Fi\n',
}


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def write_zip(path: Path, members: dict[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text.encode("latin-1"))
    return path


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """No test reaches a publisher: every URL leads nowhere until the test names another."""
    monkeypatch.delenv("CLICKHERD_DATA", raising=False)
    for name, dataset in catalog.DATASETS.items():
        if dataset.url:
            monkeypatch.setitem(catalog.DATASETS, name, replace(dataset, url=UNREACHABLE))


@pytest.fixture
def change(monkeypatch):
    """Change attributes of a data set for one test."""

    def change(name, **attributes):
        monkeypatch.setitem(catalog.DATASETS, name, replace(catalog.DATASETS[name], **attributes))

    return change


@pytest.fixture
def movielens(tmp_path, change):
    """A small ml-1m.zip, which the catalogue takes for the published one."""
    path = write_zip(tmp_path / "published" / "ml-1m.zip", MOVIELENS)
    change("movielens-1m", url=path.as_uri(), md5=md5(path.read_bytes()))
    return path


@pytest.fixture
def local(tmp_path, monkeypatch):
    folder = tmp_path / "local"
    folder.mkdir()
    monkeypatch.setenv("CLICKHERD_DATA", str(folder))
    return folder


def test_the_list_names_every_set_with_its_terms():
    assert [d.name for d in catalog.list_datasets()] == ["avazu", "criteo-kaggle", "frappe", "movielens-1m"]
    assert all(d.size and d.label and d.licence and d.origin for d in catalog.list_datasets())


def test_the_list_stays_whole_on_a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(app, ["list"]).stdout.splitlines()
    assert all(len(line) <= 80 for line in shown)
    for dataset in catalog.list_datasets():
        assert dataset.name in shown
        assert f"  {dataset.origin}" in shown


def test_the_command_line_lists_and_gets(movielens, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert "criteo-kaggle" in CliRunner().invoke(app, ["list"]).stdout
    result = CliRunner().invoke(app, ["get", "movielens-1m", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0
    assert result.stdout.strip() == str(tmp_path / "out" / "movielens-1m.parquet")


def test_an_unknown_name_brings_the_likeliest_one(tmp_path):
    with pytest.raises(ConfigError, match=r"'movielens'.*Did you mean 'movielens-1m'\? Valid names: avazu, "):
        catalog.get("movielens", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_movielens_becomes_one_flat_table_in_the_order_of_the_ratings(movielens, tmp_path):
    out = tmp_path / "a" / "new" / "folder"
    [path] = catalog.get("movielens-1m", out)
    assert path == out / "movielens-1m.parquet"
    assert [entry.name for entry in out.iterdir()] == [path.name]
    assert pl.read_parquet(path).to_dict(as_series=False) == {
        "label": [0, 1, 1],
        "user_id": [2, 1, 1],
        "movie_id": [10, 20, 10],
        "gender": ["M", "F", "F"],
        "age": ["56", "1", "1"],
        "occupation": ["16", "10", "10"],
        "zip": ["02139-1234", "48067", "48067"],
        "genres": ["Comedy|Romance", "Sci-Fi", "Comedy|Romance"],
        "year": [2001, 1968, 2001],
        "timestamp": [978300760, 978302109, 978301968],
    }


def test_the_local_folder_comes_before_the_network(movielens, local, tmp_path, change):
    (local / "movielens-1m").mkdir()
    movielens.rename(local / "movielens-1m" / "ml-1m.zip")
    change("movielens-1m", url=UNREACHABLE)
    [path] = catalog.get("movielens-1m", tmp_path / "out")
    assert pl.read_parquet(path).height == 3
    assert (local / "movielens-1m" / "ml-1m.zip").exists()


def test_a_local_folder_without_the_file_falls_back_to_the_download(movielens, local, tmp_path):
    assert len(catalog.get("movielens-1m", tmp_path / "out")) == 1


@pytest.mark.parametrize("where", ["download", "local"])
def test_a_wrong_checksum_leaves_the_folder_as_it_was(where, movielens, local, tmp_path, change):
    [path] = catalog.get("movielens-1m", tmp_path / "out")
    before = path.read_bytes()
    if where == "local":
        write_zip(local / "movielens-1m" / "ml-1m.zip", MOVIELENS | {"ml-1m/README": "changed"})
    else:
        change("movielens-1m", md5="0" * 32)
    with pytest.raises(DataError, match=r"damaged: its MD5 is [0-9a-f]{32}, not") as error:
        catalog.get("movielens-1m", tmp_path / "out")
    assert ("Fetch it again" in str(error.value)) == (where == "local")
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_without_a_network_the_error_says_where_to_put_the_file(local, tmp_path):
    with pytest.raises(DataError, match="cannot be downloaded") as error:
        catalog.get("movielens-1m", tmp_path / "out")
    assert UNREACHABLE in str(error.value)
    assert str(local / "movielens-1m" / "ml-1m.zip") in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_conversion_that_breaks_off_leaves_nothing_half_written(movielens, tmp_path, monkeypatch):
    def break_off(frame, target):
        Path(target).write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", break_off)
    with pytest.raises(DataError, match=r"could not be written.*No space left"):
        catalog.get("movielens-1m", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "source", "page"),
    [
        ("criteo-kaggle", "train.txt", "kaggle.com/c/criteo-display-ad-challenge"),
        ("avazu", "train.gz", "kaggle.com/c/avazu-ctr-prediction"),
    ],
)
def test_sets_behind_a_login_are_asked_for_by_hand(name, source, page, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="fetched by hand") as error:
        catalog.get(name, tmp_path / "out")
    assert page in str(error.value)
    assert f"put it at $CLICKHERD_DATA/{name}/{source}, where CLICKHERD_DATA names a folder" in str(error.value)
    monkeypatch.setenv("CLICKHERD_DATA", str(tmp_path))
    with pytest.raises(DataError, match="fetched by hand") as error:
        catalog.get(name, tmp_path / "out")
    assert str(error.value).endswith(f"put it at {tmp_path / name / source}.")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "source", "written"), [("criteo-kaggle", "train.txt", "train.txt"), ("avazu", "train.gz", "train.csv.gz")]
)
def test_local_kaggle_files_are_kept_byte_for_byte(name, source, written, local, tmp_path):
    (local / name).mkdir()
    (local / name / source).write_bytes(b"1\t2\r\n")
    assert catalog.get(name, tmp_path / "out") == [tmp_path / "out" / written]
    assert (tmp_path / "out" / written).read_bytes() == b"1\t2\r\n"
    in_place = catalog.get(name, local / name)  # the local folder itself: the source survives
    assert [path.read_bytes() for path in in_place] == [b"1\t2\r\n"]
    assert (local / name / source).exists()


def test_frappe_is_unpacked_and_each_file_checked(local, tmp_path, change):
    texts = {f"{part}.csv": f"label,user\r\n1,{part}\r\n" for part in ("train", "valid", "test")}
    write_zip(local / "frappe" / "Frappe_x1.zip", {f"Frappe_x1/{name}": text for name, text in texts.items()})
    change("frappe", members={name: md5(text.encode()) for name, text in texts.items()})
    paths = catalog.get("frappe", tmp_path / "out")
    assert {path.name: path.read_bytes().decode() for path in paths} == texts

    change("frappe", members={"train.csv": md5(texts["train.csv"].encode()), "test.csv": "0" * 32})
    with pytest.raises(DataError, match=r"the MD5 of test\.csv is"):
        catalog.get("frappe", tmp_path / "none")
    assert list((tmp_path / "none").iterdir()) == []


def test_a_file_damaged_inside_its_archive_is_named(local, tmp_path):
    path = local / "frappe" / "Frappe_x1.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train.csv", "label,user\r\n" * 100)
    start = 30 + len("train.csv")  # the compressed bytes follow the local header and the name
    data = bytearray(path.read_bytes())
    data[start : start + 8] = b"\xff" * 8
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        catalog.get("frappe", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(("content", "why"), [("no zip", "not a zip file"), (None, r"it holds no train\.csv")])
def test_a_damaged_archive_is_named(content, why, local, tmp_path):
    path = write_zip(local / "frappe" / "Frappe_x1.zip", {})
    if content:
        path.write_text(content)
    with pytest.raises(DataError, match=why) as error:
        catalog.get("frappe", tmp_path / "out")
    assert str(path) in str(error.value)


def test_an_output_that_is_a_file_is_refused(movielens, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ConfigError, match="not a folder"):
        catalog.get("movielens-1m", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"
