"""Filling a folder with Fashion-MNIST: from the public mirrors, then from the Debian package."""

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from ladder.files import write_whole
from pipeline.datasets import (
    DATA_VARIABLE,
    DEBIAN_DIR,
    cache_dir,
    find_dataset,
    find_file,
    load_dataset,
    usual_folders,
)
from pipeline.errors import RunError, UsageError
from pipeline.idx import IDX_FILES, IdxFile, read_idx
from pipeline.terminal import say as say_line

MIRRORS = (
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
)
PACKAGE = "dataset-fashion-mnist"
LOCK = ".fetch.lock"
CHUNK_BYTES = 64 * 1024
USER_AGENT = "keras-lightning-parity"

Say = Callable[[str], None]
Advance = Callable[[int], None]
StartBar = Callable[[str, int | None], Advance]


class SourceError(RuntimeError):
    """One source did not give a file; the next one is tried."""


@dataclass(frozen=True)
class Limits:
    """How long a source may take."""

    stall_seconds: float = 10.0
    """Without a connection or a byte."""
    file_seconds: float = 600.0
    """For one file, or one call of a package tool."""


@dataclass(frozen=True)
class Job:
    """One folder to fill, and how."""

    folder: Path
    mirrors: Sequence[str]
    limits: Limits
    say: Say
    start_bar: StartBar
    """Starts a progress bar of a file with so many bytes, if known."""
    failures: list[str] = field(default_factory=list)
    """Why which source was passed over."""


def ensure_dataset(
    data_dir: Path | None,
    *,
    mirrors: Sequence[str] = MIRRORS,
    limits: Limits | None = None,
    say: Say = say_line,
    show_progress: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> Path:
    """Return a folder that holds a whole data set, after fetching into it what is missing.

    A set that is already in reach counts; `data_dir` is filled whatever lies elsewhere.

    Raises:
        UsageError: `data_dir`, FASHION_MNIST_DIR or a mirror is not usable as what it is.
        RunError: no source gave the files, or the folder cannot be written.
    """
    for mirror in mirrors:
        if not mirror.startswith(("https://", "http://")):
            raise UsageError(f"`--mirror` must be an http or https address; received {mirror!r}")
    present = None if data_dir else _present_folder(environ)
    if present is not None:
        say(f"{load_dataset(present).name}: already in {present}")
        return present
    folder = data_dir.expanduser() if data_dir else cache_dir(environ)
    try:
        _make_folder(folder)
        with _locked(folder, say), _progress(show_progress) as start_bar:
            job = Job(folder, mirrors, limits or Limits(), say, start_bar)
            _fill(job, replace=data_dir is None)
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror or error}") from error
    return folder


def is_right(folder: Path, file: IdxFile) -> bool:
    """Tell whether `file` lies in `folder`, plain or packed, and is Fashion-MNIST's."""
    path = find_file(folder, file)
    try:
        return path is not None and read_idx(path, file)[1] == file.sha256
    except UsageError:
        return False


def _present_folder(environ: Mapping[str, str]) -> Path | None:
    """Return the folder that a trainer would read, None where it has to be fetched first."""
    if environ.get(DATA_VARIABLE):
        return find_dataset(None, environ)
    # As in find_dataset, a whole but damaged cache hides Debian's folder, so it is fetched anew.
    for folder in usual_folders(environ):
        if all(find_file(folder, file) for file in IDX_FILES):
            return folder if all(is_right(folder, file) for file in IDX_FILES) else None
    return None


def _fill(job: Job, *, replace: bool) -> None:
    """Fetch what is missing; `replace` allows overwriting files that are wrong."""
    missing = _missing_files(job.folder, replace)
    if not missing:
        job.say(f"fashion-mnist: already in {job.folder}")
        return
    for leftover in job.folder.glob(".*-ubyte.*.part"):  # of a process that was killed
        leftover.unlink(missing_ok=True)
    missing = _fetch_from_mirrors(job, missing)
    if missing:
        _fetch_from_package(job, missing)
    job.say(f"fashion-mnist: complete in {job.folder}")


def _make_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    folder.mkdir(parents=True, exist_ok=True)


def _missing_files(folder: Path, replace: bool) -> list[IdxFile]:
    missing = [file for file in IDX_FILES if not is_right(folder, file)]
    for file in missing:
        path = find_file(folder, file)
        if path is not None and not replace:
            raise UsageError(
                f"{path} is there and is not Fashion-MNIST's; name an empty folder or move it away"
            )
    return missing


@contextmanager
def _locked(folder: Path, say: Say) -> Iterator[None]:
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process is filling {folder}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch_from_mirrors(job: Job, files: list[IdxFile]) -> list[IdxFile]:
    """Fetch each file from the first mirror that has it; return the files from the first failure.

    A mirror that failed goes to the end of the queue: the next file starts with one that works.
    """
    queue = list(job.mirrors)
    for position, file in enumerate(files):
        for mirror in tuple(queue):
            url = f"{mirror.rstrip('/')}/{file.name}.gz"
            try:
                _save(job.folder, file, _download(url, job.limits, job.start_bar))
            except SourceError as error:
                job.failures.append(f"{url}: {error}")
                job.say(f"passed over {job.failures[-1]}")
                queue.append(queue.pop(0))
            else:
                job.say(f"{file.name}: from {url}")
                break
        else:
            return files[position:]
    return []


def _download(url: str, limits: Limits, start_bar: StartBar) -> Iterator[bytes]:
    """Yield what `url` holds, in chunks.

    Redirects are followed wherever they lead by http or https: what counts are the bytes' SHA-256.

    Raises:
        SourceError: refused, cut off, stalled or too slow.
    """
    import requests
    import urllib3

    deadline = time.monotonic() + limits.file_seconds
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    try:
        with requests.get(
            url, headers=headers, timeout=limits.stall_seconds, stream=True
        ) as response:
            response.raise_for_status()
            announced = response.headers.get("Content-Length", "")
            name = url.rpartition("/")[2]
            advance = start_bar(name, int(announced) if announced.isdecimal() else None)
            # Not `read`, which would wait for a whole chunk from a server that trickles.
            while chunk := response.raw.read1(CHUNK_BYTES):
                if time.monotonic() > deadline:
                    raise SourceError(f"not done after {limits.file_seconds:g} s")
                advance(len(chunk))
                yield chunk
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise SourceError(_one_line(error)) from error


def _save(folder: Path, file: IdxFile, packed: Iterator[bytes]) -> None:
    """Unpack `packed` to its final name in `folder`, if it is what it should be."""

    def write(output: BinaryIO) -> None:
        digest = hashlib.sha256()
        for content in _unpack(packed, file.num_bytes):
            digest.update(content)
            output.write(content)
        if digest.hexdigest() != file.sha256:
            raise SourceError("not Fashion-MNIST's (SHA-256 of the unpacked file)")

    write_whole(folder / file.name, write)


def _unpack(packed: Iterator[bytes], num_bytes: int) -> Iterator[bytes]:
    """Yield what the gzip stream `packed` holds, which must be `num_bytes` long."""
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    remaining = num_bytes
    for chunk in packed:
        try:
            content = unpacker.decompress(chunk, remaining + 1)
        except zlib.error as error:
            raise SourceError(f"not a gzip file: {error}") from error
        remaining -= len(content)
        if remaining < 0:
            raise SourceError(f"unpacks to more than {num_bytes:,} bytes")
        yield content
        if unpacker.eof:
            break
    if remaining or not unpacker.eof:
        raise SourceError(f"cut off: {remaining:,} of {num_bytes:,} unpacked bytes are missing")


def _fetch_from_package(job: Job, files: list[IdxFile]) -> None:
    """Take `files` from the Debian package, downloaded and unpacked beside the system.

    Raises:
        RunError: there is no apt-get here, or it cannot get the package.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="fashion-mnist-") as work:
            job.say(f"no mirror works: trying Debian's package {PACKAGE}, without installing it")
            work_dir = Path(work).resolve()
            unpacked = _unpacked_package(Path(work), job.limits)
            for file in files:
                member = unpacked / f"{file.name}.gz"
                # A link or a pipe that the package holds would lead out of its folder.
                if not member.is_file() or member.resolve() != (
                    work_dir / member.relative_to(work)
                ):
                    raise SourceError(f"it holds no file {file.name}.gz")
                with member.open("rb") as packed:
                    _save(job.folder, file, _chunks(packed))
                job.say(f"{file.name}: from Debian's package")
    except (SourceError, FileNotFoundError) as error:
        reasons = "; ".join([*job.failures, f"Debian's package: {_one_line(error)}"])
        raise RunError(
            f"no source gave {files[0].name} ({reasons}).\n"
            f"Put the four IDX files into {job.folder} by hand, or name where they are by "
            f"{DATA_VARIABLE}."
        ) from error


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def _unpacked_package(work: Path, limits: Limits) -> Path:
    """Return the folder of the four files, out of the package unpacked under `work`."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise SourceError("no apt-get here")
    options = ["-q", "-o", f"Acquire::http::Timeout={limits.stall_seconds:g}"]
    options += ["-o", f"Acquire::https::Timeout={limits.stall_seconds:g}"]
    # apt would fetch as a user of its own, who cannot write into our folder.
    options += ["-o", "Acquire::Retries=1", "-o", "APT::Sandbox::User=root"]
    try:
        _call(["apt-get", *options, "download", PACKAGE], work, limits)
    except SourceError:
        # The system's package lists are missing or old: read fresh ones into our own folder,
        # for which no right on the system's is needed.
        options += _own_lists(work)
        _call(["apt-get", *options, "update"], work, limits)
        _call(["apt-get", *options, "download", PACKAGE], work, limits)
    archives = sorted(work.glob(f"{PACKAGE}_*.deb"))
    if not archives:
        raise SourceError("apt-get left no package")
    _call(["dpkg-deb", "-x", str(archives[0]), str(work / "unpacked")], work, limits)
    return work / "unpacked" / DEBIAN_DIR.relative_to("/")


def _own_lists(work: Path) -> list[str]:
    (work / "state/lists/partial").mkdir(parents=True)
    (work / "cache/archives/partial").mkdir(parents=True)
    return [
        *("-o", f"Dir::State={work / 'state'}"),
        *("-o", "Dir::State::status=/var/lib/dpkg/status"),
        *("-o", f"Dir::Cache={work / 'cache'}"),
        *("-o", "Acquire::Languages=none"),
    ]


def _call(command: list[str], folder: Path, limits: Limits) -> None:
    """Run `command` in `folder`.

    Raises:
        SourceError: it failed or took too long, with the first error that it named.
    """
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limits.file_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SourceError(f"{command[0]} took more than {limits.file_seconds:g} s") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        named = [line for line in lines if line.startswith("E:")] or lines
        raise SourceError(f"{command[0]} exited with {done.returncode}: {named[0]}")


@contextmanager
def _progress(show: bool) -> Iterator[StartBar]:
    """Give a function that starts a file's bar, on stderr, and returns what advances it."""
    if not show:
        yield lambda _name, _total: lambda _num_bytes: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    rates = (TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, *rates, console=Console(stderr=True), transient=True) as progress:

        def start(name: str, total: int | None) -> Advance:
            task = progress.add_task(name, total=total)
            return lambda num_bytes: progress.advance(task, num_bytes)

        yield start


def _one_line(error: BaseException) -> str:
    inner = error.args[0] if error.args else None
    reason = getattr(inner, "reason", None)  # where requests gives urllib3's account of its tries
    text = str(reason).rpartition(": ")[2] if reason else str(error)
    return " ".join(text.split()) or type(error).__name__
