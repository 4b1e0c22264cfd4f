"""Datasets from the Hugging Face hub, by huggingface_hub (extra ``hub``)."""

import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path

from hybridlm.errors import InputError
from hybridlm.extras import require_hub


def fetch(dataset: str, out: Path, patterns: Sequence[str], revision: str = "main") -> list[Path]:
    """Downloads the files of a dataset that match any of ``patterns`` into ``out``; their paths, sorted.

    Each appears under its name when it is complete. Raises InputError where huggingface_hub is missing, for a
    name that can't be a dataset's, where nothing matches, and where the hub can't be reached or refuses.
    """
    require_hub("fetching a dataset")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", dataset):
        raise InputError(f"{dataset}: not the name of a dataset, which is OWNER/NAME")
    import huggingface_hub
    import huggingface_hub.errors

    try:
        api = huggingface_hub.HfApi()
        names = api.list_repo_files(dataset, repo_type="dataset", revision=revision)
        wanted = sorted(n for n in names if any(fnmatch.fnmatch(n, pattern) for pattern in patterns))
        if not wanted:
            raise InputError(
                f"{dataset}: none of its {len(names)} files matches {' or '.join(patterns)}; among them are "
                f"{', '.join(sorted(names)[:5])}"
            )
        for name in wanted:
            api.hf_hub_download(dataset, name, repo_type="dataset", revision=revision, local_dir=out)
    except InputError:
        raise
    except huggingface_hub.errors.HfHubHTTPError as error:
        said = str(error).strip().splitlines()
        raise InputError(
            f"{dataset}: the hub refuses: {said[-1] if said else type(error).__name__}"
        ) from None
    except Exception as error:
        # Of the libraries underneath, which have changed over time: each has its own errors for no network.
        raise InputError(
            f"{dataset}: can't be fetched from {huggingface_hub.constants.ENDPOINT}: "
            f"{type(error).__name__}: {error}; without a network, copy the files here and give their paths"
        ) from None
    return [out / name for name in wanted]
