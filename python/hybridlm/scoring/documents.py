"""A score document by document: what each costs in bits, by expert and by mixture."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybridlm.errors import InputError
from hybridlm.extras import require_pyarrow
from hybridlm.files import atomic_write, atomic_write_text


class DocumentTotals:
    """Totals of each document of a stream that comes in chunks.

    A document begins after a document token, whose own target is the end of the document before. Columns are
    sums in whole units, so that they don't depend on the chunks. A full validation set has a hundred thousand
    documents, so only the columns that are ``kept`` are known of each; ``totals`` are those of all.
    """

    def __init__(
        self, columns: Sequence[str], begins: NDArray[np.bool_], kept: Sequence[str] | None = None
    ) -> None:
        """``begins``: [V], which tokens a document begins with. ``kept``: None keeps all columns."""
        self.columns = tuple(columns if kept is None else kept)
        self.totals = dict.fromkeys(columns, 0)
        """The sum of each column, of any size."""
        self._kept = [list(columns).index(column) for column in self.columns]
        self._begins = begins
        self._rows = np.empty((64, 3 + len(self.columns)), np.int64)
        self._count = 0

    def add(
        self, before: NDArray[np.uint16], start: int, lengths: NDArray[np.int64], totals: NDArray[np.int64]
    ) -> None:
        """Targets start, start + 1, …, n of them: the tokens [n] before each, their bytes [n] and what they
        cost, [columns, n], of all columns."""
        for column, total in zip(self.totals, totals.sum(axis=1).tolist(), strict=True):
            self.totals[column] += total
        firsts = np.flatnonzero(self._begins[before])
        continued = self._count > 0 and not (len(firsts) and firsts[0] == 0)
        if not len(firsts) or firsts[0]:
            firsts = np.concatenate(([0], firsts))
        sizes = np.diff(np.append(firsts, len(before)))
        sums = np.add.reduceat(np.concatenate((lengths[None], totals[self._kept])), firsts, axis=1)
        rows = np.concatenate(((start + firsts)[None], sizes[None], sums)).T
        if continued:
            self._rows[self._count - 1, 1:] += rows[0, 1:]
            rows = rows[1:]
        end = self._count + len(rows)
        if end > len(self._rows):
            more = np.empty((max(end // 4, len(rows)), self._rows.shape[1]), np.int64)
            self._rows = np.concatenate((self._rows[: self._count], more))
        self._rows[self._count : end] = rows
        self._count = end

    def table(self) -> NDArray[np.int64]:
        """[documents, 3 + kept]: the first target's index in the stream, targets, bytes, and the sums.

        A view, which is good until more is added.
        """
        return self._rows[: self._count]


def check_table_path(path: str | os.PathLike[str]) -> None:
    """Raises InputError for a table's file that can't be written, before any work is done."""
    ending = Path(path).suffix
    if ending not in (".csv", ".parquet"):
        raise InputError(f"{os.fspath(path)}: a table per document is a .csv or a .parquet file")
    if ending == ".parquet":
        require_pyarrow(f"{os.fspath(path)}: a .parquet file, unlike a .csv file,")


def write_table(
    path: str | os.PathLike[str], columns: Sequence[str], table: NDArray[np.int64], unit_bits: float
) -> None:
    """Writes `DocumentTotals.table` with its sums in bits: start, tokens, bytes, then a column for each of
    ``columns``. Raises OSError."""
    bits = table[:, 3:] * unit_bits
    if Path(path).suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        names = ["start", "tokens", "bytes", *columns]
        values = [*table[:, :3].T, *bits.T]
        with atomic_write(path) as file:
            pyarrow.parquet.write_table(pyarrow.table(dict(zip(names, values, strict=True))), file)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["start", "tokens", "bytes", *columns])
    for counts, row in zip(table[:, :3].tolist(), bits.tolist(), strict=True):
        writer.writerow([*counts, *(f"{value:.4f}" for value in row)])
    atomic_write_text(path, text.getvalue())
