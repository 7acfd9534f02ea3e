"""Downloads, against a server of our own that cuts, refuses, forgets and lies."""

import hashlib
import io
import re
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress
from tenacity import wait_none

from offline.datasets import UnknownDatasetError, open_dataset
from offline.download import (
    SOURCES,
    ArchiveError,
    ChecksumError,
    Downloaded,
    DownloadError,
    RemoteFile,
    get,
    unpack,
)

BODY = bytes(range(256)) * 2_048  # 512 KiB


@dataclass
class Site:
    """What the server serves, how it misbehaves, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True  # whether it knows ranges
    etag: str = '"one"'
    cut_after: int = 0  # bytes of the next answer, once
    failures: list[int] = field(default_factory=list)  # statuses of the next answers
    content_type: str = "application/octet-stream"
    lie_about_start: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)  # path, Range
    base_url: str = ""


class Handler(BaseHTTPRequestHandler):
    """Serves the site of its server."""

    protocol_version = "HTTP/1.1"
    server: "SiteServer"

    def do_GET(self) -> None:
        site = self.server.site
        site.asked.append((self.path, self.headers.get("Range", "")))
        body = site.files.get(self.path)
        if site.failures:
            self.empty(site.failures.pop(0))
        elif body is None:
            self.empty(404)
        else:
            self.serve(site, body)

    def serve(self, site: Site, body: bytes) -> None:
        start = self.start_of_range(site)
        if start is not None and start >= len(body):
            self.empty(416, {"Content-Range": f"bytes */{len(body)}"})
            return
        rest = body[start or 0 :]
        self.send_response(200 if start is None else 206)
        if start is not None:
            told = start + site.lie_about_start
            self.send_header("Content-Range", f"bytes {told}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Type", site.content_type)
        self.send_header("Content-Length", str(len(rest)))
        if site.etag:
            self.send_header("ETag", site.etag)
        self.end_headers()
        if site.cut_after:
            rest, site.cut_after = rest[: site.cut_after], 0
            self.close_connection = True
        self.wfile.write(rest)

    def start_of_range(self, site: Site) -> int | None:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        is_same = self.headers.get("If-Range", site.etag) == site.etag
        return int(match[1]) if match and site.ranges and is_same else None

    def empty(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Stays quiet."""


class SiteServer(ThreadingHTTPServer):
    """A server on a port of its own."""

    def __init__(self) -> None:
        self.site = Site()
        super().__init__(("127.0.0.1", 0), Handler)
        self.site.base_url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """A client may hang up on an answer that it refuses."""


@pytest.fixture
def site() -> Iterator[Site]:
    """A site that serves `/data.bin`, to be made worse by the test."""
    with SiteServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        server.site.files["/data.bin"] = BODY
        yield server.site
        server.shutdown()
        thread.join()


def fetch(
    site: Site,
    folder: Path,
    *,
    name: str = "data.bin",
    max_bytes: int = 1 << 20,
    sha256: str | None = None,
    md5_beside: bool = False,
    unpacks_to: str | None = None,
    progress: Progress | None = None,
) -> Downloaded:
    file = RemoteFile(
        site.base_url,
        name,
        max_bytes,
        sha256=sha256,
        md5_beside=md5_beside,
        unpacks_to=unpacks_to,
        max_unpacked_bytes=1 << 20,
    )
    return get("test", folder, sources={"test": (file,)}, backoff=wait_none(), progress=progress)


def leave_part(folder: Path, content: bytes, version: str) -> None:
    """What an interrupted download leaves behind."""
    (folder / "data.bin.part").write_bytes(content)
    (folder / "data.bin.part.version").write_text(version)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_arrives_whole_and_leaves_nothing_beside_it(site: Site, tmp_path: Path) -> None:
    result = fetch(site, tmp_path / "new", sha256=hashlib.sha256(BODY).hexdigest())
    assert (tmp_path / "new" / "data.bin").read_bytes() == BODY
    assert names_in(tmp_path / "new") == {"data.bin"}
    assert (result.received_bytes, result.kept_bytes, result.unchecked) == (len(BODY), 0, [])


def test_a_cut_connection_is_resumed_where_it_was_cut(site: Site, tmp_path: Path) -> None:
    site.cut_after = 300_000
    result = fetch(site, tmp_path, sha256=hashlib.sha256(BODY).hexdigest())
    assert (tmp_path / "data.bin").read_bytes() == BODY
    first, second = site.asked
    assert first == ("/data.bin", "")
    assert 0 < int(second[1].removeprefix("bytes=").removesuffix("-")) <= 300_000
    assert result.received_bytes == len(BODY)


def test_an_earlier_part_is_kept_where_the_server_has_the_same_version(
    site: Site, tmp_path: Path
) -> None:
    leave_part(tmp_path, BODY[:1_000], '"one"')
    result = fetch(site, tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == BODY
    assert (result.kept_bytes, result.received_bytes) == (1_000, len(BODY) - 1_000)


def test_a_part_of_another_version_is_thrown_away(site: Site, tmp_path: Path) -> None:
    leave_part(tmp_path, b"old" * 100, '"zero"')
    result = fetch(site, tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == BODY
    assert result.kept_bytes == 0


def test_a_part_of_unknown_version_is_not_trusted(site: Site, tmp_path: Path) -> None:
    leave_part(tmp_path, b"old" * 100, "")
    fetch(site, tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == BODY
    assert site.asked == [("/data.bin", "")]


def test_a_server_without_ranges_sends_everything_again(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    site.cut_after = 300_000
    fetch(site, tmp_path, sha256=hashlib.sha256(BODY).hexdigest())
    assert (tmp_path / "data.bin").read_bytes() == BODY
    assert len(site.asked) == 2


def test_a_weak_version_is_no_ground_to_resume_on(site: Site, tmp_path: Path) -> None:
    site.etag = 'W/"one"'
    site.cut_after = 300_000
    fetch(site, tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == BODY
    assert [asked[1] for asked in site.asked] == ["", ""]


def test_a_part_that_is_already_whole_is_not_sent_again(site: Site, tmp_path: Path) -> None:
    leave_part(tmp_path, BODY, '"one"')
    result = fetch(site, tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == BODY
    assert (result.kept_bytes, result.received_bytes) == (len(BODY), 0)


def test_a_part_longer_than_the_file_is_begun_again(site: Site, tmp_path: Path) -> None:
    leave_part(tmp_path, BODY + b"more", '"one"')
    fetch(site, tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == BODY


def test_another_range_than_the_one_asked_for_is_begun_again(site: Site, tmp_path: Path) -> None:
    leave_part(tmp_path, BODY[:1_000], '"one"')
    site.lie_about_start = True
    fetch(site, tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == BODY


def test_a_busy_server_is_asked_again(site: Site, tmp_path: Path) -> None:
    site.failures = [503, 429, 502]
    fetch(site, tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == BODY
    assert len(site.asked) == 4


def test_a_server_that_stays_busy_is_given_up_with_its_last_word(
    site: Site, tmp_path: Path
) -> None:
    site.failures = [503] * 100
    with pytest.raises(DownloadError, match=r"not received after 6 attempts; last: .* 503"):
        fetch(site, tmp_path)
    assert len(site.asked) == 6


def test_a_server_that_is_not_there_is_a_download_error(site: Site, tmp_path: Path) -> None:
    with SiteServer() as closed:
        site.base_url = closed.site.base_url
    with pytest.raises(DownloadError, match=r"data\.bin was not received"):
        fetch(site, tmp_path)


def test_a_missing_file_is_not_asked_for_twice(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="must answer 200 or 206; got 404"):
        fetch(site, tmp_path, name="other.bin")
    assert len(site.asked) == 1


def test_a_web_page_is_not_taken_for_a_file(site: Site, tmp_path: Path) -> None:
    site.content_type = "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="got a web page"):
        fetch(site, tmp_path)


def test_a_wrong_checksum_is_refused_and_the_file_removed(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ChecksumError, match=f"must have sha256 {'0' * 64}; got [0-9a-f]{{64}}"):
        fetch(site, tmp_path, sha256="0" * 64)
    assert names_in(tmp_path) == set()


def test_a_file_that_was_changed_on_disk_is_refused_too(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"changed")
    with pytest.raises(ChecksumError):
        fetch(site, tmp_path, sha256=hashlib.sha256(BODY).hexdigest())
    assert names_in(tmp_path) == set()


def test_the_checksum_beside_the_file_is_compared(site: Site, tmp_path: Path) -> None:
    right = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
    site.files["/data.bin.md5"] = f"MD5 (data.bin) = {right}\n".encode()
    assert fetch(site, tmp_path, md5_beside=True).unchecked == []
    (tmp_path / "data.bin").unlink()
    site.files["/data.bin.md5"] = b"MD5 (data.bin) = 00000000000000000000000000000000\n"
    with pytest.raises(ChecksumError, match=r"must have md5 0{32}"):
        fetch(site, tmp_path, md5_beside=True)


def test_a_file_without_any_checksum_is_reported_as_unchecked(site: Site, tmp_path: Path) -> None:
    result = fetch(site, tmp_path, md5_beside=True)
    assert result.unchecked == ["data.bin"]
    assert result.sha256 == {"data.bin": hashlib.sha256(BODY).hexdigest()}


def test_a_file_that_is_there_is_not_fetched_again(site: Site, tmp_path: Path) -> None:
    fetch(site, tmp_path)
    assert fetch(site, tmp_path).received_bytes == 0
    assert len(site.asked) == 1


def test_a_file_above_its_limit_is_refused_and_not_kept(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="must be at most 1000 bytes; got 524288"):
        fetch(site, tmp_path, max_bytes=1_000)
    assert names_in(tmp_path) == set()


def test_progress_ends_at_the_size_of_the_file(site: Site, tmp_path: Path) -> None:
    progress = Progress(console=Console(file=io.StringIO()))
    site.cut_after = 300_000
    fetch(site, tmp_path, progress=progress)
    (task,) = progress.tasks
    assert (task.description, task.completed, task.total) == ("data.bin", len(BODY), len(BODY))


def test_an_unknown_dataset_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownDatasetError, match="movietweetings, movielens, kuairand"):
        get("netflix", tmp_path)


def test_every_publisher_is_reached_by_https_and_every_archive_is_checked() -> None:
    files = [file for files in SOURCES.values() for file in files]
    assert all(file.base_url.startswith("https://") for file in files)
    assert all(file.sha256 or file.md5 for file in files if file.unpacks_to)


def test_what_is_downloaded_is_what_the_dataset_reads(site: Site, tmp_path: Path) -> None:
    site.files["/ratings.dat"] = b"1::0133093::9::1362062400\n"
    site.files["/movies.dat"] = b"0133093::The Matrix (1999)::Action\n"
    get("movietweetings", tmp_path, base_urls={"movietweetings": site.base_url + "/"})
    dataset = open_dataset("movietweetings", tmp_path)
    assert [event.item_id for event in dataset.interactions()] == ["tt0133093"]
    assert [item.title for item in dataset.catalogue()] == ["The Matrix"]


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def tarred(members: dict[str, bytes], link: tuple[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo(link[0])
            info.type, info.linkname = tarfile.SYMTYPE, link[1]
            archive.addfile(info)
    return out.getvalue()


both_kinds = pytest.mark.parametrize("pack", [zipped, tarred])
Pack = Callable[[dict[str, bytes]], bytes]


@both_kinds
def test_an_archive_is_unpacked_beside_itself(site: Site, tmp_path: Path, pack: Pack) -> None:
    site.files["/data.bin"] = pack({"set/data/a.csv": b"1", "set/b.csv": b"2", "other/c": b"3"})
    fetch(site, tmp_path, unpacks_to="set")
    assert (tmp_path / "set" / "data" / "a.csv").read_bytes() == b"1"
    assert names_in(tmp_path) == {"data.bin", "set"}
    assert names_in(tmp_path / "set") == {"data", "b.csv"}


@both_kinds
@pytest.mark.parametrize("name", ["../evil", "set/../../evil", "/evil", "set\\..\\evil"])
def test_a_path_out_of_the_archive_is_refused(tmp_path: Path, pack: Pack, name: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    archive = inside / "bad.bin"
    archive.write_bytes(pack({"set/a": b"1", name: b"evil"}))
    with pytest.raises(ArchiveError, match="paths within itself"):
        unpack(archive, "set", 1_000)
    assert names_in(tmp_path) == {"inside"}
    assert names_in(inside) == {"bad.bin"}


def test_a_link_in_an_archive_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "bad.tar.gz"
    archive.write_bytes(tarred({"set/a": b"1"}, link=("set/passwords", "/etc/passwd")))
    with pytest.raises(ArchiveError, match="must hold plain files; got set/passwords"):
        unpack(archive, "set", 1_000)
    assert names_in(tmp_path) == {"bad.tar.gz"}


@both_kinds
def test_an_archive_that_swells_beyond_its_limit_is_refused(tmp_path: Path, pack: Pack) -> None:
    archive = tmp_path / "bomb"
    archive.write_bytes(pack({"set/a": bytes(100_000)}))
    with pytest.raises(ArchiveError, match="at most 1000 bytes; got 100000"):
        unpack(archive, "set", 1_000)
    assert names_in(tmp_path) == {"bomb"}


@pytest.mark.parametrize(
    "content",
    [b"no archive at all", b"", tarred({"set/a": b"1" * 99})[:-20]],
    ids=["nonsense", "nothing", "cut short"],
)
def test_a_broken_archive_is_an_archive_error(tmp_path: Path, content: bytes) -> None:
    archive = tmp_path / "broken"
    archive.write_bytes(content)
    with pytest.raises(ArchiveError, match="broken cannot be unpacked"):
        unpack(archive, "set", 1_000)


def test_an_archive_without_its_folder_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "other.zip"
    archive.write_bytes(zipped({"another/a": b"1"}))
    with pytest.raises(ArchiveError, match="must hold the folder set"):
        unpack(archive, "set", 1_000)


def test_an_older_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "old").write_text("old")
    archive = tmp_path / "new.zip"
    archive.write_bytes(zipped({"set/new": b"new"}))
    unpack(archive, "set", 1_000)
    assert names_in(tmp_path / "set") == {"new"}
