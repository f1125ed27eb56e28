"""Whether the version that takes the traffic can carry it (pure): size, concurrency, scale-to-zero.

Sizes: `workload_size` of databricks-sdk's ServedEntityInput (Small up to 4 requests at once, Medium 16, Large 64); custom endpoints state
`max_provisioned_concurrency`, provisioned throughput `max_provisioned_throughput` or `provisioned_model_units`.
"""

from collections.abc import Mapping
from typing import Any

CONCURRENCY = {"Small": 4, "Medium": 16, "Large": 64}
UNITS = {
    "requests at once": "max_provisioned_concurrency",
    "tokens a second": "max_provisioned_throughput",
    "model units": "provisioned_model_units",
}


def cautions(
    documents: Mapping[str, Mapping[str, Any]], before: Mapping[str, int], after: Mapping[str, int], taking: str
) -> tuple[str, ...]:
    """What a person should know before `taking` gets the traffic, in sentences; none when it has as much capacity as what it replaces.

    `documents`: served entity name -> its input document; `before`, `after`: served entity name -> per cent.
    """
    prior = documents[taking]
    giving = [name for name, share in before.items() if name in documents and share > after.get(name, 0)]
    sentences = []
    for unit in UNITS:
        needed = [
            capacity * (before[name] - after.get(name, 0)) / before[name]
            for name in giving
            if (capacity := _capacity(documents[name], unit)) is not None
        ]
        own = _capacity(prior, unit)
        if needed and own is not None and own < sum(needed):
            sentences.append(
                f"{taking} carries up to {own:g} {unit}, what it replaces up to {sum(needed):g} ({', '.join(giving)})"
            )
    sizes = {str(documents[name].get("workload_size")) for name in giving}
    own_size = str(prior.get("workload_size"))
    unknown = {size for size in (*sizes, own_size) if size != "None" and size not in CONCURRENCY}
    if unknown and sizes != {own_size}:
        sentences.append(
            f"{taking} has the size {own_size}, what it replaces {', '.join(sorted(sizes))}: which is larger is not known"
        )
    kinds = {str(documents[name].get("workload_type") or "CPU") for name in giving}
    kind = str(prior.get("workload_type") or "CPU")
    if kinds and kinds != {kind}:
        sentences.append(f"{taking} runs on {kind}, what it replaces on {', '.join(sorted(kinds))}")
    return tuple(sentences)


def asleep(entity: Mapping[str, Any], share: int) -> bool:
    """Whether a served entity may have scaled to zero: it is allowed to, and it takes no traffic. `share`: per cent it takes now."""
    return bool(entity.get("scale_to_zero_enabled")) and share == 0


def _capacity(entity: Mapping[str, Any], unit: str) -> float | None:
    value = entity.get(UNITS[unit])
    if value is None and unit == "requests at once":
        value = CONCURRENCY.get(str(entity.get("workload_size")))
    try:
        return float(value) if value is not None else None
    except (TypeError, ValueError):
        return None
