"""Documents in a column of a Parquet file, by PyArrow (extra ``parquet``)."""

from collections.abc import Callable, Iterator
from pathlib import Path

from hybridlm.data.json_documents import checked_text
from hybridlm.errors import FormatError
from hybridlm.extras import require_pyarrow

_ROWS = 1024


def read_column(file: Path, field: str, on_bytes: Callable[[int], None]) -> Iterator[tuple[str, str]]:
    """(where it stands, text) of each row of the column ``field``.

    No more than a row group of that column is held. ``on_bytes`` is told of the file's bytes in proportion to
    the rows. Raises InputError where PyArrow is missing, FormatError for a damaged file, a column that isn't
    there or isn't text, and a row without text.
    """
    require_pyarrow(f"{file}: a Parquet file")
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as source:
            _check_column(file, field, source.schema_arrow)
            size, rows, read = file.stat().st_size, max(1, source.metadata.num_rows), 0
            for batch in source.iter_batches(batch_size=_ROWS, columns=[field], use_threads=False):
                for text in batch.column(0).to_pylist():
                    where = f"{file}[{read}]"
                    yield where, checked_text(text, where, field)
                    read += 1
                on_bytes(size * read // rows - size * (read - len(batch)) // rows)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise FormatError(f"{file}: the Parquet file is damaged: {' '.join(str(error).split())}") from None


def _check_column(file: Path, field: str, schema: "pyarrow.Schema") -> None:  # type: ignore[name-defined]  # noqa: F821
    from pyarrow import types

    if schema.names.count(field) != 1:
        names = ", ".join(map(repr, schema.names[:8])) or "none"
        raise FormatError(f"{file}: no column {field!r}: its columns are {names}; --text-field names another")
    kind = schema.field(field).type
    inner = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(inner) or types.is_large_string(inner) or types.is_string_view(inner)):
        raise FormatError(f"{file}: column {field!r} holds {kind}, not text; --text-field names another")
