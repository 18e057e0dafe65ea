"""What several processes make of their shares' gradients, against one with the whole batch."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from portproof.graph.gaps import WHOLE_GRADIENT, gap

Arrays = Mapping[str, np.ndarray]


def cause_of_gradients(
    whole: Arrays,
    shares: Sequence[Arrays],
    rows: Sequence[int],
    processes: Sequence[Arrays],
    are_apart: bool,
    alone: Callable[[], Sequence[Arrays]],
) -> str | None:
    """Return how the processes weigh their shares if a formula gives both sides' gradients.

    Args:
        whole: the reference's gradients of one step by weight, on the whole batch.
        shares: the reference's on each process's share alone, from the same weights.
        rows: of each share.
        processes: those that each process's optimizer got.
        are_apart: whether the processes' weights differ behind the step.
        alone: gives those that each process gets by itself on the whole batch, if it can. A sum
            is named only if they are the reference's; else the loss is another one anyhow.
    """
    count, largest = len(rows), max(float(np.abs(g).max()) for g in whole.values())
    parted = [n for n in whole if not all(_near(whole[n], p[n], largest) for p in processes)]
    table = np.stack([np.concatenate([s[n].ravel() for n in whole]) for s in shares], 1)
    if not parted or np.linalg.matrix_rank(table, rtol=1e-9) < count:  # alike, they tell nothing
        return None

    def gives(weights: np.ndarray, gradients: Arrays, names: Iterable[str]) -> bool:
        made = {n: np.tensordot(weights, np.stack([s[n] for s in shares]), 1) for n in names}
        return all(_near(gradients[n], made[n], largest) for n in made)

    once, mean, own = np.ones(count), np.array(rows) / sum(rows), np.eye(count)
    tried: list[tuple[str, np.ndarray]] = []  # weights of all shares, or by process
    measured = {
        f"gradients are 1/{count} of the batch's sum":
        f"the loss is a sum over samples; the mean over {count} processes is 1/{count} of it",
        f"gradients are {count} times the mean":
        f"gradients are summed over {count} processes: {count} times the mean",
    }  # fmt: skip
    of_sum, of_mean = measured
    if gives(once, whole, whole):
        tried = [(of_sum, once / count)]
    elif gives(mean, whole, whole):
        tried = [(of_mean, once), (of_mean, count * mean)]
        text = f"{' and '.join(map(str, rows))} rows count 1/{count} each"
        tried.append((f"unequal shares are averaged alike: {text}", once / count))
        if are_apart:
            text = "gradients are not synchronised: each process takes those of its own share"
            tried.append((text, own))
        tried += [(f"the share of process {r} alone counts", weights)
                  for r in range(count) for weights in (own[r], own[r] / count)]  # fmt: skip
    for text, weights in tried:
        by_process = np.broadcast_to(weights, (count, count))
        if all(gives(w, p, parted) for w, p in zip(by_process, processes, strict=True)):
            if (
                text in measured
                and (found := alone())
                and all(
                    made.keys() == whole.keys()
                    and all(_near(whole[n], made[n], largest) for n in made)
                    for made in found
                )
            ):
                return measured[text]
            return text
    return None


def _near(a: np.ndarray, b: np.ndarray, largest: float) -> bool:
    return gap(a, b, largest).within(WHOLE_GRADIENT)
