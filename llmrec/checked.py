"""Read files of unknown origin and check them once: JSON, NumPy arrays and Parquet tables.

Nothing is unpickled, and only regular files are opened: a pipe would block for ever.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from llmrec.errors import LlmrecError, RunError

if TYPE_CHECKING:
    import pyarrow as pa

REMEDY = "Copy the folder again, or delete the file and make it again with `llmrec run`."


def read_checked(path: Path, shape: Any, remedy: str = REMEDY, kind: type[LlmrecError] = RunError) -> Any:
    """Read a JSON file and validate it.

    Args:
        shape: a type that pydantic validates (a dataclass, a TypedDict, `list[str]` …), strictly: nothing is converted.
        remedy: last sentence of the message.
        kind: class of the error.

    Raises:
        LlmrecError: a `kind` that names file, key and remedy; the file is missing, is not JSON, or has another shape.
    """
    text = _content(path, remedy, kind)
    try:
        return _adapter(shape).validate_json(text, strict=True)
    except ValidationError as error:
        raise kind(f"{path} {_first_problem(error)}. {remedy}") from None


def check_value(value: Any, shape: Any, path: Path, remedy: str = REMEDY, kind: type[LlmrecError] = RunError) -> None:
    """Validate a part of a JSON file; arguments and errors as of `read_checked`."""
    try:
        _adapter(shape).validate_python(value, strict=True)
    except ValidationError as error:
        raise kind(f"{path} {_first_problem(error)}. {remedy}") from None


def read_lines(path: Path, shape: Any) -> list[Any]:
    """Read a JSONL file and validate its lines; empty lines and an incomplete last line are left out.

    Raises:
        RunError: the file is missing, or a line is not JSON or has another shape.
    """
    lines, values = _content(path, REMEDY, RunError).split(b"\n"), []
    for number, line in enumerate(lines, 1):
        try:
            values += [_adapter(shape).validate_json(line, strict=True)] if line.strip() else []
        except ValidationError as error:
            if number < len(lines):
                raise RunError(f"{path}, line {number}, {_first_problem(error)}. {REMEDY}") from None
    return values


def read_array(
    path: Path,
    dimensions: int,
    remedy: str = REMEDY,
    kind: type[LlmrecError] = RunError,
    mapped: bool = False,
) -> np.ndarray:
    """Read a `.npy` file of finite numbers.

    Args:
        dimensions: number of axes.
        mapped: return a read-only memory map of the file.

    Raises:
        LlmrecError: a `kind`; the file is missing, damaged, or holds something else.
    """
    check_file(path, remedy, kind)
    try:
        # Mapped first: a header that claims more than the file holds must not allocate it.
        array = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))  # memmaps are slow to index
    except (OSError, ValueError, EOFError, OverflowError, TypeError, MemoryError) as error:
        raise kind(f"{path} cannot be read as an array of numbers ({_line(error)}). {remedy}") from error
    _check_numbers(path, "it", array, dimensions, remedy, kind)
    return array if mapped else array.copy()


def read_arrays(
    path: Path, dimensions: Mapping[str, int], remedy: str = REMEDY, kind: type[LlmrecError] = RunError
) -> dict[str, np.ndarray]:
    """Read an uncompressed `.npz` file of finite numbers.

    Args:
        dimensions: name → number of axes, of the required arrays.

    Raises:
        LlmrecError: a `kind`; the file is missing, damaged or compressed, lacks an array, or holds something else.
    """
    check_file(path, remedy, kind)
    try:
        with zipfile.ZipFile(path) as packed:
            if any(part.file_size > path.stat().st_size for part in packed.infolist()):
                raise ValueError("it is compressed, which llmrec never does")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, OverflowError, TypeError, MemoryError, zipfile.BadZipFile) as error:
        raise kind(f"{path} cannot be read as arrays of numbers ({_line(error)}). {remedy}") from error
    for name, axes in dimensions.items():
        if name not in arrays:
            raise kind(f"{path} lacks the array '{name}'. {remedy}")
        _check_numbers(path, f"its array '{name}'", arrays[name], axes, remedy, kind)
    return arrays


def read_table(
    path: Path,
    types: Mapping[str, pa.DataType],
    remedy: str = REMEDY,
    kind: type[LlmrecError] = RunError,
    **options: Any,
) -> pa.Table:
    """Read a Parquet file.

    Args:
        types: column → its type, of the required columns, which must not have nulls; a column of texts may also be
            dictionary-encoded.
        options: of `pyarrow.parquet.read_table`.

    Raises:
        LlmrecError: a `kind`; the file is missing, damaged, or has other columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_file(path, remedy, kind)
    try:
        table = pq.read_table(path, **options)
        table.validate(full=True)  # texts that are not UTF-8
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError, MemoryError, pa.ArrowException) as error:
        raise kind(f"{path} cannot be read as a Parquet table ({_line(error)}). {remedy}") from error
    for name, expected in types.items():
        if table.column_names.count(name) != 1:
            raise kind(f"{path} must have one column '{name}', but has: {', '.join(table.column_names)}. {remedy}")
        type_ = table.schema.field(name).type
        type_ = type_.value_type if pa.types.is_dictionary(type_) else type_
        if type_ != expected:
            raise kind(f"{path}: the column '{name}' must be of type {expected}, not {type_}. {remedy}")
        if table[name].null_count:
            raise kind(f"{path}: the column '{name}' has {table[name].null_count} empty value(s). {remedy}")
    return table


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def _content(path: Path, remedy: str, kind: type[LlmrecError]) -> bytes:
    check_file(path, remedy, kind)
    try:
        return path.read_bytes()
    except OSError as error:
        raise kind(f"{path} cannot be read ({error.strerror}). {remedy}") from error


def check_file(path: Path, remedy: str = REMEDY, kind: type[LlmrecError] = RunError) -> None:
    """Raise a `kind` where a path is no regular file; opening a pipe would wait for ever."""
    if not path.is_file():
        raise kind(f"{path} {'is not a regular file' if path.exists() else 'is missing'}. {remedy}")


def _check_numbers(path: Path, what: str, array: Any, dimensions: int, remedy: str, kind: type[LlmrecError]) -> None:
    if array.dtype.kind not in "iuf" or array.ndim != dimensions:
        raise kind(f"{path}: {what} must be numbers on {dimensions} axes, not {array.dtype} of {array.shape}. {remedy}")
    if not np.isfinite(array).all():
        raise kind(f"{path}: {what} has values that are not finite. {remedy}")


def _first_problem(error: ValidationError) -> str:
    """Describe the first problem of a JSON value."""
    problems = error.errors(include_url=False)
    first = problems[0]
    if first["type"] == "json_invalid":
        return f"is not valid JSON ({first['ctx']['error']})"
    name = repr(".".join(map(str, first["loc"])))
    more = f"; {len(problems) - 1} more key(s) are wrong" if len(problems) > 1 else ""
    if first["type"] == "missing":
        return f"lacks the key {name}{more}"
    if first["type"] == "extra_forbidden":
        return f"has the key {name}, which this version of llmrec does not know{more}"
    value = repr(first["input"])
    value = value if len(value) <= 60 else f"{value[:60]}…"
    where = f"has a wrong value at {name}" if first["loc"] else "has the wrong content"
    return f"{where} ({first['msg'].removeprefix('Value error, ')}; given: {value}){more}"


def _line(error: BaseException) -> str:
    """The first sentence of an error; NumPy's second one advises to unpickle."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")[:200]
