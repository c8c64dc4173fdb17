"""Whole files or none: atomic writes, JSON lines that survive a kill, a lock, checked YAML and JSON.

A stage may be killed at any moment. Whatever has its final name is therefore complete: text, JSON and folders
are written under a hidden temporary name beside the target and renamed into place. The exception is a
`.jsonl` file, which grows line by line; a kill can tear its last line, which reading and appending drop.

New files and folders get the rights that the umask and the folder give: nothing here calls chmod, which a
mount or another owner's folder may refuse.
"""

import errno
import json
import math
import os
import re
import secrets
import shutil
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Iterator, Optional

from finer1_lib.core.errors import UserError

TEMPORARY = ".tmp-"  # prefix of unfinished files and folders; never hashed, swept when a stage is opened


def plain(value: Any) -> Any:
    """Numpy scalars, paths, tuples and sets as JSON's types, else TypeError; NaN and infinities as None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [plain(item) for item in value]
        return sorted(items) if isinstance(value, (set, frozenset)) else items
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "tolist"):  # numpy and torch scalars and arrays, without importing either
        return plain(value.tolist())
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r}")


_FULL = re.compile("No space left on device|Disk quota exceeded|not enough space on the disk|disk is full")
_TROUBLE = (  # the system's words, what is wrong, what to do
    ("Permission denied|Operation not permitted|Access is denied|Read-only file system",
     "you may not read or write there", "ask the owner for the rights"),
    # something in a file's or folder's place, a mount that is gone, a disk that fails
    ("Is a directory|Not a directory|File exists|Directory not empty|Too many levels of symbolic links|"
     "File name too long|Input/output error|Stale file handle|Transport endpoint is not connected|"
     "Host is down|No such device|File too large|Too many open files|resource busy|Text file busy",
     "nothing can be read or written there as it is", "see what is there, remove or repair it"))


def system_line(error: str, folder: Path) -> Optional[str]:
    """What to do about a full disk, missing rights and the like in `folder`; None for any other error.

    `error` is the error's text: libraries wrap the system's words in exceptions of their own.
    """
    if _FULL.search(error):
        while not folder.exists():
            folder = folder.parent
        why = f"{shutil.disk_usage(folder).free / 1e6:.0f} MB"
        if hasattr(os, "statvfs") and (counts := os.statvfs(folder)).f_files:
            why += f" and {counts.f_favail} inodes, one for each file,"  # small files use these up first
        why = "your quota is used up" if "quota" in error.lower() else f"{why} are free"
        return (f"the disk of {folder} is full ({why}): make room there (runs you no longer need, their"
                " *.previous folders) or choose another --output-root; what is finished is kept, and the same"
                " command goes on")
    return next((f"{error}: {what} ({folder}): {fix}, or choose another --run-name or --output-root"
                 for words, what, fix in _TROUBLE if re.search(words, error)), None)


@contextmanager
def one_line_for_the_system(folder: Path) -> Iterator[None]:
    """Raise a UserError with `system_line` in place of a full disk's or missing rights' own error."""
    try:
        yield
    except OSError as error:
        place = Path(error.filename).absolute().parent if isinstance(error.filename, str) else folder
        if (line := system_line(str(error), place)) is None:
            raise
        raise UserError(line) from error


def is_file(path: "str | Path") -> bool:
    """`Path.is_file`; False for a text that cannot be a path (too long, a zero byte)."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; UserError if the system does not allow it."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        line = (f"the folder {folder} cannot be made ({error.strerror}): choose another place"
                " (--output-root, for a run)")
        raise UserError(system_line(str(error), folder) or line) from error


def _beside(path: Path) -> Path:
    """A temporary name in the folder of `path`, which is made."""
    make_folder(path.parent)
    return path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or nothing; parents are made."""
    temporary = _beside(Path(path))
    try:
        with temporary.open("xb") as file:
            _write(file, content, path)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write(file: Any, content: bytes, path: Path) -> None:
    """Write through a handle and flush to the disk; an error names the file."""
    try:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        error.filename = str(path)
        raise


def atomic_write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 text file or nothing."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_json(path: Path, value: Any) -> None:
    """Write a whole JSON file or nothing (two-space indent, keys in the order given)."""
    atomic_write_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def check_targets(*names: Optional[str]) -> None:
    """Refuse (UserError), before any work, a target that cannot be written as a file; None is skipped.

    A device (/dev/stdout, /dev/null) is refused: an atomic write would replace it by a file.
    """
    for name in (name for name in names if name is not None):
        try:
            if "\0" in name:
                raise ValueError("a zero byte in it")
            folder = next(parent for parent in Path(name).absolute().parents if parent.exists())
            other = Path(name).exists() and not Path(name).is_file()
        except (OSError, ValueError) as error:  # a name that is too long, or holds a zero byte
            why = getattr(error, "strerror", None) or error
            raise UserError(f"cannot write to {name[:80]!r} ({why}): give the path of a file") from None
        if other or not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise UserError(f"cannot write to {name or '.'}: it is a folder or a device, or {folder} is not a"
                            " writable folder: give the path of a file")


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that replaces `path` on success and vanishes on failure."""
    path = Path(path)
    temporary, older = _beside(path), _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        files = [file for file in temporary.rglob("*") if file.is_file()]
        if len(files) > 100 and hasattr(os, "sync"):
            os.sync()  # one flush of everything is quicker than thousands of small ones
        else:
            for file in files:
                with suppress(PermissionError), file.open("rb+") as handle:  # a read-only file
                    os.fsync(handle.fileno())
        if path.is_dir() and not path.is_symlink():
            os.replace(path, older)
        os.replace(temporary, path)
    except BaseException:
        if older.exists() and not path.exists():
            os.replace(older, path)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(older, ignore_errors=True)


def read_json(path: Path, kind: type = dict) -> Any:
    """Read a JSON object or, with `kind=list`, a list; empty without a file, UserError for a damaged one."""
    if not (path := Path(path)).exists():
        return kind()
    if not path.is_file():
        what = "a folder" if path.is_dir() else "something else"  # a pipe would be waited for
        raise UserError(f"{path} must be a file, and there is {what}: remove it")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: delete its folder and run again") from error
    if not isinstance(value, kind):
        raise UserError(f"{path} does not hold what it should: delete its folder and run again")
    return value


def append_jsonl(path: Path, *values: Any) -> None:
    """Append one line per value, on the disk when this returns; a torn last line is cut off first."""
    path = Path(path)
    make_folder(path.parent)
    lines = "".join(json.dumps(plain(value), ensure_ascii=False, allow_nan=False) + "\n" for value in values)
    with path.open("ab+") as file:
        _cut_torn_line(file)
        _write(file, lines.encode("utf-8"), path)


def _cut_torn_line(file: Any) -> None:
    """Truncate an open binary file after its last newline, searched for from the end in pieces."""
    stop, newline = (end := file.seek(0, os.SEEK_END)), 0
    while stop and not newline:
        start = file.seek(max(0, stop - 65536))
        newline = file.read(stop - start).rfind(b"\n") + 1
        stop = start
    if stop + newline < end:
        file.truncate(stop + newline)
    file.seek(0, os.SEEK_END)


def read_jsonl(path: Path, truncate: bool = False, fix: str = "delete the file and run again") -> list[Any]:
    """Read JSON lines, none without a file; a last line without a newline (torn by a kill) is dropped.

    `truncate` also cuts it from the file. `fix` ends the message (UserError) about a whole line that is not
    JSON, which no kill can cause.
    """
    path, values = Path(path), []
    if not path.exists():
        return []
    with path.open("rb+" if truncate else "rb") as file:
        if truncate:
            _cut_torn_line(file)
            file.seek(0)
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                values.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path} line {number} is not JSON: {fix}") from error
    return values


def sweep(folder: Path) -> None:
    """Remove what killed writers left under temporary names."""
    for leftover in list(Path(folder).rglob(TEMPORARY + "*")):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def lock(path: Path, what: str, patience: float = 10.0) -> Optional[int]:
    """Take a lock that this process holds until `unlock` (which takes the result) or its death.

    Own code, not filelock: the file keeps the holder's process id for the message, a user who may only read
    the lock file of a shared folder can still lock it, and a file system without locks is no error (None).
    Raises UserError if another process holds `what` for more than `patience` seconds (a killed kernel: about 1).
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        if not os.access(Path(path).parent, os.W_OK):
            return None
        handle = os.open(path, os.O_RDONLY)  # a lock file of another user's in a shared folder
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                holder = os.read(handle, 20).decode("ascii", "replace").strip() or "unknown"
                os.close(handle)
                raise UserError(f"{what} is in use by process {holder}: wait for it, or shut that notebook's"
                                " kernel down, or choose another --run-name") from None
            time.sleep(0.1)
        except OSError as error:
            # EBADF: over NFS a handle that only reads cannot lock
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EBADF):
                raise
            os.close(handle)
            return None
    with suppress(OSError):  # not through a handle that only reads
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode("ascii"))
    return handle


def unlock(handle: Optional[int]) -> None:
    """Give a lock back."""
    if handle is not None:
        os.close(handle)


def read_text(path: "str | Path") -> str:
    """The text of a UTF-8 file, without a byte order mark; ValueError for a line that is not UTF-8."""
    content = Path(path).read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not UTF-8: save it as UTF-8, in Excel as CSV UTF-8") from None


def parse_json(text: str) -> Any:
    """The value of a JSON text, which can be written again; ValueError if it is not JSON, has a key twice in one
    object, is nested too deeply, or has a lone surrogate."""
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) < len(keys):
            raise ValueError(f"{max(keys, key=keys.count)!r} is listed twice")
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=once)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError(r"holds half a sign, as \ud800") from None
    return value


def read_yaml(path: Path, where: str) -> Any:
    """`parse_yaml` of a file; UserError, which names it `where`, also if it cannot be read."""
    try:
        return parse_yaml(read_text(path), where)
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text; UserError if it is not YAML, is nested too deeply, has a key twice (PyYAML
    silently takes the last), or a number that YAML reads in base 8 or 60."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict:
            seen: set = set()
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                if isinstance(key, yaml.ScalarNode) and key.value in seen:
                    line = key.start_mark.line + 1
                    raise UserError(f"{where} has the key {key.value!r} twice (line {line}): remove one")
                seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
            return super().construct_mapping(node, deep=deep)

        def construct_scalar(self, node: Any) -> Any:
            number = node.tag.endswith((":int", ":float"))
            if number and re.fullmatch(r"[-+]?(0[0-9_]+|.*:.*)", str(node.value)):
                line = node.start_mark.line + 1
                raise UserError(f"{where}: {node.value} (line {line}) is another number in YAML, of base 8 or 60:"
                                " write it without the leading 0 or the colon, or put text into quotes")
            return super().construct_scalar(node)

    try:
        return yaml.load(text, Loader=Loader)
    except RecursionError:
        raise UserError(f"{where} is nested too deeply to be read") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist, say
        mark = getattr(error, "problem_mark", None)
        why = getattr(error, "problem", None) or str(error)
        raise UserError(f"{where} is not YAML{f' (line {mark.line + 1})' if mark else ''}: {why}") from error
