"""An example or more of each command, which its help shows.

One after the other they work, from a text.txt alone: a test runs those that take no minutes.
"""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "run": (
        "hybridlm run",
        "hybridlm run --text text.txt --out run --oracle-bytes 3000000",
    ),
    "data tokenizer": (
        "hybridlm data tokenizer text.txt -o tok.model",
        "hybridlm data tokenizer text.txt -o small.model --vocab-size 512",
        "hybridlm data tokenizer text.txt -o folding.model --fold-case",
    ),
    "data shard": ("hybridlm data shard text.txt --tokenizer tok.model --out data",),
    "data fetch": (
        "hybridlm data fetch HuggingFaceFW/fineweb-edu --files 'sample/10BT/000_*.parquet' --out fineweb",
    ),
    "data overlap": ("hybridlm data overlap data/text_train_*.bin --val 'data/*_val_*.bin'",),
    "data inspect": ("hybridlm data inspect data/text_train_000000.bin --tokenizer tok.model",),
    "oracle build": (
        "hybridlm oracle build data/text_train_*.bin -o oracle.ngsp --max-bytes 1500000",
        "hybridlm oracle build data/text_train_*.bin -o dense.ngor --estimator dense --layout packed",
    ),
    "oracle count": ("hybridlm oracle count data/text_train_000000.bin -o part0.counts",),
    "oracle merge": ("hybridlm oracle merge part*.counts -o all.counts",),
    "oracle inspect": ("hybridlm oracle inspect oracle.ngsp",),
    "oracle eval": ("hybridlm oracle eval oracle.ngsp --val 'data/*_val_*.bin' --tokenizer tok.model",),
    "oracle score": (
        "hybridlm oracle score oracle.ngsp text.txt --tokenizer tok.model",
        "hybridlm oracle score oracle.ngsp text.txt --tokenizer tok.model --by document --json",
    ),
    "oracle tune": (
        "hybridlm oracle tune oracle.ngsp dense.ngor --on 'data/*_val_*.bin' --tokenizer tok.model",
    ),
    "oracle ngrams": ("hybridlm oracle ngrams all.counts --text ' of the' --tokenizer tok.model",),
    "oracle export": ("hybridlm oracle export oracle.ngsp -o oracle.arpa",),
    "train": (
        "hybridlm train --data data --tokenizer tok.model --out model --preset tiny",
        "hybridlm train --preset record --dry-run",
    ),
    "artifact pack": (
        "hybridlm artifact pack --oracle oracle.ngsp --tokenizer tok.model -o artifact.pgar",
        "hybridlm artifact pack --model model --oracle oracle.ngsp --tokenizer tok.model -o both.pgar",
    ),
    "artifact inspect": ("hybridlm artifact inspect artifact.pgar",),
    "eval": (
        "hybridlm eval artifact.pgar --val 'data/*_val_*.bin' --tokenizer tok.model",
        "hybridlm eval artifact.pgar --val 'data/*_val_*.bin' --tokenizer tok.model --json > score.json",
    ),
    "mix": (
        "hybridlm mix --tokens 'data/*_val_*.bin' --tokenizer tok.model --oracle oracle.ngsp",
        "hybridlm mix --log-probs network.npy --tokens 'data/*_val_*.bin' --tokenizer tok.model",
    ),
    "verify": ("hybridlm verify score.json",),
    "compare": ("hybridlm compare score.json score.json",),
    "audit": (
        "hybridlm audit artifact.pgar --val 'data/*_val_*.bin' --tokenizer tok.model --max-tokens 2000",
        "hybridlm audit --subject scorer.py:Bigrams --val 'data/*_val_*.bin' --tokenizer tok.model",
    ),
    "compress": ("hybridlm compress text.txt --artifact artifact.pgar --tokenizer tok.model -o text.hlm",),
    "decompress": (
        "hybridlm decompress text.hlm --artifact artifact.pgar --tokenizer tok.model -o again.txt",
    ),
    "generate": (
        "hybridlm generate --artifact artifact.pgar --tokenizer tok.model --prompt 'The value' --tokens 20",
    ),
    "baseline ctw": ("hybridlm baseline ctw --train text.txt --test text.txt --max-train-bytes 100000",),
    "baseline kn": ("hybridlm baseline kn --train text.txt --test text.txt --max-train-bytes 100000",),
    "report": (
        "hybridlm report run",
        "hybridlm report run other-run -o both.html",
    ),
    "submission pack": (
        "hybridlm submission pack run1 run2 --code train_gpt.py --author A.Name --github-id aname \\\n"
        "      --name 'GPT and oracle' --date 2026-01-31 -o record",
    ),
    "submission check": ("hybridlm submission check record",),
    "submission compare": ("hybridlm submission compare record record-to-beat",),
    "doctor": ("hybridlm doctor",),
    "completion": (
        "hybridlm completion bash > ~/.local/share/bash-completion/completions/hybridlm",
        "hybridlm completion zsh > ~/.zfunc/_hybridlm",
        "hybridlm completion fish > ~/.config/fish/completions/hybridlm.fish",
    ),
}
