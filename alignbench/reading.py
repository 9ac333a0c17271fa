"""Read what others may have written or a disk has damaged: what it holds, or a sentence that names the file.

Every reader of JSON, YAML, Parquet and NumPy files of this program stands on these functions, so what their libraries
raise is known in one place. A sentence says what is wrong and ends with what to do, the `remedy`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow

PUT_BACK = "put the right file back"
MAX_NAME = 255  # bytes of a file's name, on most file systems
HEAD = re.compile(  # how a NumPy file of one dimension begins
    rb"\x93NUMPY\x01\0..{'descr': '(?P<kind>[^']*)', 'fortran_order': False, 'shape': \((?P<size>\d{1,18}),\), } *\n",
    re.DOTALL,
)


def read_bytes(path: Path, remedy: str = PUT_BACK) -> bytes:
    """Return what a file holds.

    Raises:
        UserError: it is missing, a folder, or may not be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {remedy}") from None


def is_file_name(text: str) -> bool:
    """Say whether a text can be the name of a file or folder in another one, and leads to no other place."""
    return text not in ("", ".", "..") and "/" not in text and text.isprintable() and len(text.encode()) <= MAX_NAME


def parse_json(text: str | bytes, named: str, remedy: str = "") -> Any:
    """Return the value of a JSON text.

    Args:
        named: file, or line of a file, that the text is from.

    Raises:
        UserError: it is no JSON in UTF-8, an object has a key twice, where Python alone would keep the last value, or
            it has half a surrogate pair, which cannot be written again.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            keys = [key for key, _ in pairs]
            repeated = next(key for key in keys if keys.count(key) > 1)
            raise UserError(f"{named} gives {repeated!r} twice in one object{remedy and f'; {remedy}'}")
        return found

    with json_errors(named, remedy):
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(text, object_pairs_hook=unique)
        if "\\u" in text:  # the only way to write half a pair
            json.dumps(value, ensure_ascii=False).encode()
    return value


@contextmanager
def json_errors(named: str, remedy: str = "") -> Iterator[None]:
    """Raise what Python raises of JSON that cannot be read as the sentence about it; see `parse_json`."""
    try:
        yield
        return
    except UserError:
        raise
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in error.doc else ""
        reason = f"is not JSON: {error.msg} ({line}column {error.colno})"
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 at byte {error.start}"
    except UnicodeEncodeError:
        reason = "has half a surrogate pair, which is not a character"
    except RecursionError:
        reason = "is nested too deeply"
    except ValueError:  # the one that is left
        reason = "has a number with too many digits"
    raise UserError(f"{named} {reason}{remedy and f'; {remedy}'}")


def read_json(path: Path, remedy: str = PUT_BACK) -> Any:
    """Return the value in a JSON file.

    Raises:
        UserError: as `read_bytes` and `parse_json`.
    """
    return parse_json(read_bytes(path, remedy), str(path), remedy)


def read_json_object(path: Path, remedy: str = PUT_BACK) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        UserError: as `read_json`, or it holds another value.
    """
    value = read_json(path, remedy)
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}, expected an object; {remedy}")
    return value


def read_json_lines(path: Path, remedy: str = PUT_BACK) -> list[dict[str, Any]]:
    """Return one JSON object a line; a last line without its newline was cut by a kill and is left out.

    Raises:
        UserError: the file cannot be read, or a line holds no object.
    """
    content = read_bytes(path, remedy)
    records = []
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].split(b"\n"), start=1):
        if line:
            named = f"line {number} of {path}"
            record = parse_json(line, named, remedy)
            if not isinstance(record, dict):
                raise UserError(f"{named} is not a JSON object; {remedy}")
            records.append(record)
    return records


def check_record(cls: type, values: Mapping[str, Any], named: str, remedy: str = PUT_BACK) -> None:
    """Refuse values that a dataclass does not declare, or declares as another type. They are left as they are.

    Args:
        cls: a dataclass whose annotations are types of JSON; a list stands for a tuple.

    Raises:
        UserError: naming the first wrong entry.
    """
    from pydantic import ValidationError

    try:
        _adapter(cls).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        entry = ".".join(map(str, first["loc"]))
        raise UserError(f"{named} has a wrong entry {entry}: {first['msg']}; {remedy}") from None


@cache
def _adapter(cls: type) -> Any:
    from pydantic import ConfigDict, TypeAdapter, with_config

    # a subclass, as the settings of the check are no business of the class itself
    return TypeAdapter(with_config(ConfigDict(extra="forbid"))(type(cls.__name__, (cls,), {})))


def read_yaml(path: Path, remedy: str = PUT_BACK) -> dict[str, Any]:
    """Return the mapping in a YAML file as plain values; `${...}` stays the text that it is.

    Raises:
        UserError: it cannot be read, is no mapping, or repeats parts by `*`, which could stand for more than memory
            holds and which this program never writes.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        text = read_bytes(path, remedy).decode("utf-8-sig")
        if "*" in text and any(isinstance(one, yaml.AliasEvent) for one in yaml.parse(text, yaml.SafeLoader)):
            raise UserError(f"{path} repeats parts by `*`; {remedy}")
        values = OmegaConf.to_container(OmegaConf.create(text))
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML ({_first_line(error)}); {remedy}") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply; {remedy}") from None
    except UserError:
        raise
    except ValueError as error:  # of a date or a number that cannot be
        raise UserError(f"{path} is not YAML ({_first_line(error)}); {remedy}") from None
    if not isinstance(values, dict) or not values:
        raise UserError(f"{path} holds no settings; {remedy}")
    return {str(key): value for key, value in values.items()}


def read_parquet(
    path: Path, columns: Mapping[str, str], remedy: str = PUT_BACK, check_pages: bool = False
) -> "pyarrow.Table":
    """Return the whole table of a Parquet file that this program wrote.

    Args:
        columns: that it must have, each with the name of its Arrow type.
        check_pages: whether its pages have digests that are to be checked.

    Raises:
        UserError: it cannot be read, or lacks a column, or has one of another type.
    """
    from pyarrow import parquet

    with parquet_errors(path, remedy):
        with parquet.ParquetFile(path, page_checksum_verification=check_pages) as file:
            table = file.read()
        table.validate(full=True)
        found = {field.name: str(field.type) for field in table.schema}
    for name, kind in columns.items():
        if found.get(name) != kind:
            raise UserError(f"{path} has {f'{found[name]} in' if name in found else 'no'} column {name}; {remedy}")
    return table


@contextmanager
def parquet_errors(path: Path, remedy: str = PUT_BACK) -> Iterator[None]:
    """Raise what pyarrow raises of a damaged Parquet or Arrow file as the sentence about it."""
    from pyarrow import ArrowException

    try:
        yield
    except UserError:
        raise
    except (ArrowException, OSError, ValueError) as error:  # ValueError: names that are not UTF-8
        raise UserError(f"{path} is damaged or no Parquet file ({_first_line(error)}); {remedy}") from None


def read_array(path: Path, dtype: type, remedy: str = PUT_BACK) -> "np.ndarray":
    """Return the array of a NumPy file, [N]. What NumPy would take for a header is a program text, which is not parsed.

    Raises:
        UserError: it is damaged, or holds numbers of another type or in another shape.
    """
    import numpy as np

    content, kind = read_bytes(path, remedy), np.dtype(dtype)
    head = HEAD.match(content)
    if not head or head["kind"] != kind.str.encode() or len(content) != head.end() + int(head["size"]) * kind.itemsize:
        raise UserError(f"{path} holds no list of {kind.name}; {remedy}")
    return np.frombuffer(content, kind, offset=head.end()).copy()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".: ")
