"""What errors call a text's file, and the shell line that puts its content through a program."""

from dataclasses import dataclass
from pathlib import Path
from shlex import quote


@dataclass(frozen=True)
class Origin:
    """Where a text comes from.

    ``packing`` is what the file is compressed with, by the program of that name, or empty. Where
    ``is_stdin``, ``path`` is only a name.
    """

    path: Path
    packing: str = ""
    is_stdin: bool = False

    def __str__(self) -> str:
        return str(self.path)

    @property
    def suffix(self) -> str:
        """What the name says of the content, lower-case; a compressed file has it before the last suffix."""
        return self._unpacked.suffix.lower()

    @property
    def _unpacked(self) -> Path:
        packed = self.packing and self.path.suffix.lower() in (".gz", ".bz2", ".xz", ".zst", ".zstd")
        return self.path.with_suffix("") if packed else self.path

    @property
    def is_plain_file(self) -> bool:
        return not (self.packing or self.is_stdin)

    def read_by(self, command: str) -> str:
        """The shell line in which ``command`` reads the content, as it is when it is decompressed."""
        if self.is_stdin:
            return " | ".join(["…", *([f"{self.packing} -dc"] if self.packing else []), command])
        if self.packing:
            return f"{self.packing} -dc {quote(str(self.path))} | {command}"
        return f"{command} < {quote(str(self.path))}"

    def converted_by(self, command: str, ending: str) -> str:
        """The shell line in which ``command`` rewrites the content, into a file whose name has ``ending``.

        ``ending`` takes the place of the name's last suffix; in it ``{}`` stands for that suffix.
        """
        if self.is_stdin:
            return f"{self.read_by(command)} | hybridlm …"
        path = self._unpacked
        out = path.with_name(path.stem + ending.format(path.suffix))
        return f"{self.read_by(command)} > {quote(str(out))}"
