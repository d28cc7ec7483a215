"""Results image by image in `stopping`: which choices get a task's image right, and how sure the
exit head is of it.

Task n of row k is image `(n + 911 k) mod S`. Learning has the first half of a network's test
images, choosing and counting a quarter each, so that nothing is tuned on what it is judged by. What
a device may expect once it knows how sure the head is comes from the first half always. Axes: S
images, H bins of confidence, P+1 choices.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxcoinfer.data.processes import Split

_BINS = 16  # of as many training images each
_STRIDE = 911  # images between the beginnings of two rows


class Samples(struct.PyTreeNode):
    """Results of a world's images, and what choices achieve on training images by confidence."""

    # float32 [S, P+2], 1 where a choice gets the image right, else 0; last the confidence of the
    # exit head as a device sees it, the mean of its bin: a finer number would tell images apart
    records: jax.Array
    edges: jax.Array  # float32 [H-1], confidences between the bins
    expected: jax.Array  # float32 [H, P+1], accuracy of each choice on training images, by bin


def make_samples(
    right: np.ndarray, confidence: np.ndarray, *, split: Split
) -> tuple[Samples, np.ndarray]:
    """Returns the samples of a world, and the accuracy of each choice on the training images [P+1].

    right bool [P+1, S], confidence [S]: of all test images. split: "train" for the first half,
    "validation" and "test" for a quarter each. Raises ValueError where the shapes do not fit or
    there are too few images.
    """
    right, confidence = np.asarray(right, np.float32).T, np.asarray(confidence, np.float32)
    if right.shape[0] != confidence.shape[0] or len(confidence) < 4 * _BINS:
        raise ValueError(
            f"samples: {right.shape[0]} results, {len(confidence)} confidences; "
            f"allowed: {4 * _BINS} or more."
        )
    half = len(confidence) // 2
    known, certain = right[:half], confidence[:half]
    edges = np.unique(np.quantile(certain, np.arange(1, _BINS) / _BINS).astype(np.float32))
    bins, n_bins = np.searchsorted(edges, certain, side="right"), len(edges) + 1
    expected = by_bin(known, bins, n_bins)
    levels = by_bin(certain[:, None], bins, n_bins)[:, 0]
    shown = levels[np.searchsorted(edges, confidence, side="right")]
    places = {
        "train": slice(None, half),
        "validation": slice(half, half + half // 2),
        "test": slice(half + half // 2, None),
    }
    records = np.concatenate([right, shown[:, None]], axis=1)[places[split]]
    return Samples(jnp.asarray(records), jnp.asarray(edges), jnp.asarray(expected)), known.mean(
        axis=0
    )


def by_bin(right: np.ndarray, bins: np.ndarray, n_bins: int) -> np.ndarray:
    """Returns the mean of right [S, P+1] in each bin, float32 [H, P+1]; of an empty one, the mean
    of all.
    """
    count = np.bincount(bins, minlength=n_bins)[:, None]
    total = np.stack([np.bincount(bins, column, minlength=n_bins) for column in right.T], axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), right.mean(axis=0)).astype(np.float32)


def record(samples: Samples, row: jax.Array, task: jax.Array) -> jax.Array:
    """Returns the record of a task's image [P+2]; row, task int32 (a task before the first takes
    the first image).
    """
    return samples.records.at[image(samples, row, task)].get(mode="promise_in_bounds")


def number(samples: Samples, row: jax.Array, task: jax.Array, column: jax.Array) -> jax.Array:
    """Returns one column of that record, int32 in [0, P+2); a step needs no more, and one number is
    a cheap gather.
    """
    return samples.records.at[image(samples, row, task), column].get(mode="promise_in_bounds")


def image(samples: Samples, row: jax.Array, task: jax.Array) -> jax.Array:
    """Returns the image of a task, int32."""
    return jax.lax.rem(jnp.maximum(task, 0) + _STRIDE * row, jnp.int32(samples.records.shape[0]))


def expected(samples: Samples, confidence: jax.Array) -> jax.Array:
    """Returns the accuracy to be expected of each choice [P+1] where the head is that sure."""
    return samples.expected[jnp.searchsorted(samples.edges, confidence, side="right")]


def of_like_images(samples: Samples) -> jax.Array:
    """Returns, of each image of this world, how often a choice is right on those as sure as it,
    float32 [S, P+1]: all that can be expected of an image, given what a policy may see.
    """
    right, sure = samples.records[:, :-1], samples.records[:, -1]
    bins, n_bins = jnp.searchsorted(samples.edges, sure, side="right"), len(samples.edges) + 1
    count = jax.ops.segment_sum(jnp.ones_like(sure), bins, n_bins)[:, None]
    total = jax.ops.segment_sum(right, bins, n_bins)
    return (total / jnp.maximum(count, 1.0))[bins]
