"""Fetches public datasets from their publishers: resumed, checked, and put in place as a whole.

A file grows as `NAME.part`, beside it `NAME.part.version` with what the server calls this version
of it (ETag or date). A download that was cut goes on where it stopped if the server still has that
version, else it begins again. Only a complete file with the right checksum gets its name, and only
then is an archive unpacked, into a folder that takes its name at the end.
"""

import hashlib
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

import httpx
from rich.progress import Progress, TaskID
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter
from tenacity.wait import wait_base

from offline.datasets import DatasetError, UnknownDatasetError

CHUNK_BYTES: Final = 1 << 16
ATTEMPTS: Final = 6
TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0)
BACKOFF: Final = wait_exponential_jitter(initial=0.5, max=20.0, jitter=1.0)  # seconds

_MD5 = re.compile(r"\b[0-9a-f]{32}\b", re.IGNORECASE)


class DownloadError(DatasetError):
    """A file cannot be fetched; the message says which one, what was expected, and what came."""


class ChecksumError(DownloadError):
    """A file is not the one that was published; it has been removed."""


class ArchiveError(DownloadError):
    """An archive is broken, or holds what it must not."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A published file, and how to know that it is the right one."""

    base_url: str
    name: str
    max_bytes: int
    sha256: str | None = None
    md5: str | None = None
    md5_beside: bool = False  # the publisher serves its MD5 as NAME.md5
    unpacks_to: str | None = None  # the one folder in the archive
    max_unpacked_bytes: int = 0


MIB: Final = 1 << 20

SOURCES: Final[Mapping[str, tuple[RemoteFile, ...]]] = {
    # No checksums are published: the files are a branch's newest.
    "movietweetings": tuple(
        RemoteFile(
            "https://raw.githubusercontent.com/sidooms/MovieTweetings/master/latest/",
            name,
            max_bytes=128 * MIB,
        )
        for name in ("ratings.dat", "movies.dat")
    ),
    # The SHA-256 is also that of tensorflow/datasets, url_checksums/movielens.txt.
    "movielens": (
        RemoteFile(
            "https://files.grouplens.org/datasets/movielens/",
            "ml-latest-small.zip",
            max_bytes=16 * MIB,
            sha256="696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
            md5_beside=True,
            unpacks_to="ml-latest-small",
            max_unpacked_bytes=64 * MIB,
        ),
    ),
    # The MD5 is that of the record at Zenodo.
    "kuairand": (
        RemoteFile(
            "https://zenodo.org/records/10439422/files/",
            "KuaiRand-Pure.tar.gz",
            max_bytes=128 * MIB,
            md5="0820331067a3784d9691136f772b35a7",
            unpacks_to="KuaiRand-Pure",
            max_unpacked_bytes=1_024 * MIB,
        ),
    ),
}

TERMS: Final[Mapping[str, str]] = {
    "movietweetings": "MIT; cite Dooms, De Pessemier, Martens, CrowdRec 2013",
    "movielens": "research, no redistribution without permission; cite Harper, Konstan, TiiS 2015",
    "kuairand": "CC BY-SA 4.0; cite Gao et al., CIKM 2022",
}


@dataclass(slots=True)
class Downloaded:
    """What a download did; `files` are in place, checked as far as their publisher allows."""

    name: str
    terms: str  # under which the publisher gives the data away
    files: list[Path] = field(default_factory=list)
    received_bytes: int = 0
    kept_bytes: int = 0  # of earlier, interrupted downloads
    sha256: dict[str, str] = field(default_factory=dict)  # of each file, for the record
    unchecked: list[str] = field(default_factory=list)  # files without a published checksum


class _TransientError(Exception):
    """Worth another attempt."""


def get(
    name: str,
    folder: Path,
    *,
    progress: Progress | None = None,
    base_urls: Mapping[str, str] | None = None,
    sources: Mapping[str, tuple[RemoteFile, ...]] = SOURCES,
    client: httpx.Client | None = None,
    backoff: wait_base = BACKOFF,
) -> Downloaded:
    """Fetches the dataset `name` into `folder`; files that are already there are only checked.

    `base_urls` names another place for a dataset, a mirror: checksums stay those of the publisher.
    Raises UnknownDatasetError, DownloadError, ChecksumError or ArchiveError; what was received of
    an interrupted file stays for the next call.
    """
    if name not in sources:
        raise UnknownDatasetError(f"dataset must be one of {', '.join(sources)}; got {name!r}")
    folder.mkdir(parents=True, exist_ok=True)
    result = Downloaded(name, TERMS.get(name, ""))
    mirror = (base_urls or {}).get(name)
    own_client = client or httpx.Client(timeout=TIMEOUT, follow_redirects=True)
    try:
        for file in sources[name]:
            base_url = mirror or file.base_url
            url = f"{base_url.rstrip('/')}/{file.name}"
            _Download(file, url, folder, own_client, backoff, progress, result).run()
    finally:
        if client is None:
            own_client.close()
    return result


class _Download:
    """One file on its way."""

    def __init__(
        self,
        file: RemoteFile,
        url: str,
        folder: Path,
        client: httpx.Client,
        backoff: wait_base,
        progress: Progress | None,
        result: Downloaded,
    ) -> None:
        self.file = file
        self.url = url
        self.target = folder / file.name
        self.part = folder / f"{file.name}.part"
        self.version = folder / f"{file.name}.part.version"
        self.client = client
        self.backoff = backoff
        self.bar = _Bar(progress, file.name)
        self.result = result
        self.kept_bytes = 0

    def run(self) -> None:
        """Fetches, checks, names and unpacks the file, as far as that is not done already."""
        is_new = not self.target.exists()
        if is_new:
            self._fetch()
        else:
            self._check(self.target)
        self.result.files.append(self.target)
        folder = self.file.unpacks_to
        if folder is not None and (is_new or not self.target.with_name(folder).exists()):
            unpack(self.target, folder, self.file.max_unpacked_bytes)

    def _fetch(self) -> None:
        self.kept_bytes = _size(self.part)
        self._retrying(self._fetch_rest)
        self._check(self.part)
        self.version.unlink(missing_ok=True)
        self.part.replace(self.target)
        self.result.kept_bytes += self.kept_bytes

    def _retrying(self, attempt: Callable[[], None]) -> None:
        """Makes attempts until one succeeds, with growing pauses. Raises DownloadError."""
        retrying = Retrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=self.backoff,
            retry=retry_if_exception(_is_transient),
            reraise=True,
        )
        try:
            retrying(attempt)
        except (httpx.HTTPError, _TransientError) as error:
            raise DownloadError(
                f"{self.url} was not received after {ATTEMPTS} attempts; last: "
                f"{str(error) or type(error).__name__}"
            ) from error

    def _fetch_rest(self) -> None:
        """One request for what is missing of the file."""
        start, version = _size(self.part), self._known_version()
        headers = {"Accept-Encoding": "identity"}  # ranges count the bytes of the file itself
        if start and version:
            headers |= {"Range": f"bytes={start}-", "If-Range": version}
        with self.client.stream("GET", self.url, headers=headers) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                if response.headers.get("Content-Range") == f"bytes */{start}":
                    return  # all of it is here already
                self._forget()
                raise _TransientError("the server has no such range; beginning again")
            self._refuse_errors(response)
            resumed = self._is_continuation(response, start)
            self._receive(response, start if resumed else 0)

    def _receive(self, response: httpx.Response, start: int) -> None:
        """Writes the body behind the first `start` bytes, all of it or an exception."""
        length = response.headers.get("Content-Length")
        total = start + int(length) if length is not None else None
        self._refuse_size(total or 0)
        self._remember_version(response)
        self.bar.begin(start, total)
        self.kept_bytes = min(self.kept_bytes, start)
        size = start
        with self.part.open("r+b" if start else "wb") as out:
            out.seek(start)
            out.truncate()
            for chunk in response.iter_bytes(CHUNK_BYTES):
                size += len(chunk)
                self._refuse_size(size)
                out.write(chunk)
                self.result.received_bytes += len(chunk)
                self.bar.advance(len(chunk))
        if total is not None and size != total:
            raise _TransientError(f"expected {total} bytes; got {size}")

    def _refuse_errors(self, response: httpx.Response) -> None:
        status = response.status_code
        if status in TRANSIENT:
            raise _TransientError(f"the server answered {status}")
        if status not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
            raise DownloadError(f"{self.url} must answer 200 or 206; got {status}")
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise DownloadError(f"{self.url} must be a file; got a web page")

    def _refuse_size(self, size: int) -> None:
        if size > self.file.max_bytes:
            self._forget()
            raise DownloadError(
                f"{self.url} must be at most {self.file.max_bytes} bytes; got {size} or more"
            )

    def _is_continuation(self, response: httpx.Response, start: int) -> bool:
        """Whether the body begins where our part ends; a whole file begins at 0."""
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            return False
        if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            self._forget()
            raise _TransientError("the server sent another range; beginning again")
        return True

    def _known_version(self) -> str:
        return self.version.read_text() if self.version.exists() else ""

    def _remember_version(self, response: httpx.Response) -> None:
        """Keeps what names this version; a weak ETag, or an encoded body, names no bytes."""
        etag = response.headers.get("ETag", "")
        if "Content-Encoding" in response.headers:
            version = ""
        elif etag and not etag.startswith("W/"):
            version = etag
        else:
            version = response.headers.get("Last-Modified", "")
        self.version.write_text(version)

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.version.unlink(missing_ok=True)

    def _check(self, path: Path) -> None:
        """Compares checksums, and removes the file if one differs. Raises ChecksumError."""
        published = {"sha256": self.file.sha256, "md5": self.file.md5 or self._md5_beside()}
        for kind, expected in published.items():
            found = _digest(path, kind)
            if expected is not None and found != expected.lower():
                path.unlink()
                self.version.unlink(missing_ok=True)
                raise ChecksumError(
                    f"{self.url} must have {kind} {expected}; got {found}. The file was removed"
                )
        if not any(published.values()):
            self.result.unchecked.append(self.file.name)
        self.result.sha256[self.file.name] = _digest(path, "sha256")

    def _md5_beside(self) -> str | None:
        """The MD5 that the publisher serves beside the file; None where a pinned one must do."""
        if not self.file.md5_beside:
            return None
        try:
            response = self.client.get(f"{self.url}.md5")
        except httpx.HTTPError:
            return None
        match = _MD5.search(response.text) if response.status_code == httpx.codes.OK else None
        return match[0] if match else None


class _Bar:
    """One line of a progress display, or nothing."""

    def __init__(self, progress: Progress | None, name: str) -> None:
        self._progress = progress
        self._name = name
        self._task: TaskID | None = None

    def begin(self, completed: int, total: int | None) -> None:
        """Shows how much is there already."""
        if self._progress is None:
            return
        if self._task is None:
            self._task = self._progress.add_task(self._name, total=total)
        self._progress.update(self._task, completed=completed, total=total)

    def advance(self, n_bytes: int) -> None:
        """Adds bytes that have come."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, n_bytes)


def unpack(archive: Path, folder_name: str, max_bytes: int) -> Path:
    """Unpacks the folder `folder_name` of a zip or tar archive beside it, replacing an old one.

    Only plain files and folders inside that folder are taken; anything else, or more than
    `max_bytes` of them, and nothing is put in place. Raises ArchiveError.
    """
    target = archive.parent / folder_name
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=archive.parent) as scratch:
        try:
            if zipfile.is_zipfile(archive):
                _unzip(archive, folder_name, Path(scratch), max_bytes)
            else:
                _untar(archive, folder_name, Path(scratch), max_bytes)
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
            raise ArchiveError(f"{archive.name} cannot be unpacked: {error}") from error
        unpacked = Path(scratch) / folder_name
        if not unpacked.is_dir():
            raise ArchiveError(f"{archive.name} must hold the folder {folder_name}; it does not")
        if target.exists():
            target.rename(Path(scratch) / "old")
        unpacked.rename(target)
    return target


def _unzip(archive: Path, folder_name: str, out: Path, max_bytes: int) -> None:
    with zipfile.ZipFile(archive) as source:
        _refuse_unpacked_size(archive, sum(i.file_size for i in source.infolist()), max_bytes)
        for info in source.infolist():
            path = _inner_path(archive, info.filename, folder_name)
            if path is None or info.is_dir():
                continue
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            with source.open(info) as inner, (out / path).open("wb") as outer:
                shutil.copyfileobj(inner, outer)  # at most file_size bytes: zipfile sees to it


def _untar(archive: Path, folder_name: str, out: Path, max_bytes: int) -> None:
    with tarfile.open(archive) as source:
        for member in _members_up_to(source, archive, max_bytes):
            path = _inner_path(archive, member.name, folder_name)
            if path is None or member.isdir():
                continue
            if not member.isfile():
                raise ArchiveError(f"{archive.name} must hold plain files; got {member.name}")
            source.extract(member, out, set_attrs=False, filter="data")


def _members_up_to(
    source: tarfile.TarFile, archive: Path, max_bytes: int
) -> Iterator[tarfile.TarInfo]:
    total = 0
    for member in source:
        total += member.size
        _refuse_unpacked_size(archive, total, max_bytes)
        yield member


def _refuse_unpacked_size(archive: Path, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise ArchiveError(
            f"{archive.name} must unpack to at most {max_bytes} bytes; got {size} or more"
        )


def _inner_path(archive: Path, name: str, folder_name: str) -> PurePosixPath | None:
    """Where a member goes; None for what is not in the folder. Raises ArchiveError for escapes."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise ArchiveError(f"{archive.name} must hold paths within itself; got {name!r}")
    return path if path.parts[:1] == (folder_name,) else None


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, (_TransientError, httpx.TransportError))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()
