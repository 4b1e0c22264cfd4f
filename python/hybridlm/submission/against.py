"""Does a record beat another by as much as the challenge asks, beyond chance?"""

from dataclasses import dataclass

from hybridlm.errors import InputError
from hybridlm.scoring.confidence import one_sample, welch
from hybridlm.submission.record import Record

MARGIN_NATS = 0.005
"""Nats per token by which a new record must be better."""
LEVEL = 0.01
"""The largest p of such a claim."""


@dataclass(frozen=True)
class Against:
    """A comparison of bits per byte.

    candidate, record: means. difference: of the candidate less that of the record; below 0 it is better.
    margin: bits per byte by which it must be better. test: ``Welch``, or ``one-sample`` where the record has
    a single score, which is then taken for exact. p_value: one-sided, that it isn't better by so much.
    passed: p_value is below `LEVEL`.
    """

    candidate: float
    record: float
    difference: float
    margin: float
    test: str
    t: float
    degrees: float
    p_value: float
    passed: bool


def against(candidate: Record, record: Record, margin_bpb: float | None = None) -> Against:
    """``candidate`` against the ``record`` to beat.

    ``margin_bpb`` None: `MARGIN_NATS`, in bits per byte as the candidate's own loss and score relate, or the
    record's. Raises InputError where neither says its loss, and for a candidate of fewer than two seeds.
    """
    if margin_bpb is None:
        nats = candidate.nats_per_bit or record.nats_per_bit
        if nats is None:
            raise InputError(
                f"neither {candidate.name} nor {record.name} gives val_loss, by which {MARGIN_NATS} nats per "
                "token become bits per byte: give --margin-bpb"
            )
        margin_bpb = MARGIN_NATS / nats
    if len(candidate.bpbs) < 2:
        raise InputError(f"{candidate.name} has a single score; a test takes at least two seeds")
    if len(record.bpbs) < 2:
        found, test = one_sample(record.val_bpb, candidate.bpbs, margin_bpb), "one-sample"
    else:
        found, test = welch(record.bpbs, candidate.bpbs, margin_bpb), "Welch"
    return Against(
        candidate=found.second,
        record=found.first,
        difference=found.difference,
        margin=margin_bpb,
        test=test,
        t=found.t,
        degrees=found.degrees,
        p_value=found.p_value,
        passed=found.p_value < LEVEL,
    )
