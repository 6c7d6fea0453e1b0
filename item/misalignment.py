"""The equations: how badly a caption fits its image, whole and object by object.

The idea, misalignment of an image with its generated caption in a frozen CLIP space,
measured on the whole image first and then on every object that the caption names, is
that of the abstract of ITEM (arXiv 2511.00427). The formulas are this project's choice.

Symbols: ``v`` and ``u`` are the embeddings of an image and of its caption, ``o_k`` and
``w_k`` those of the crop and of the phrase of object ``k``.

Conventions, for every function here:

- Embeddings are unit rows of one space. That is the caller's duty and is not checked.
- Arrays may be of any float type and are computed with, and returned, as float32.
- Images with fewer than ``n_objects`` objects are padded. ``named`` marks the objects
  that exist and ``grounded`` those of them that were found in the image, so ``grounded``
  implies ``named``. What stands in the padding, NaN included, never reaches a result
  that takes a mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


def global_similarity(images: ArrayLike, captions: ArrayLike) -> Floats:
    """Cosine similarity of each image and its caption, ``s_g = v . u``.

    Parameters
    ----------
    images, captions : ndarray of shape (n_images, n_dims), unit rows

    Returns
    -------
    ndarray of shape (n_images,), in [-1, 1] up to rounding.
    """
    return _float32(np.einsum("nd,nd->n", _float32(images), _float32(captions)))


def global_misalignment(images: ArrayLike, captions: ArrayLike) -> Floats:
    """Difference of each image and its caption, ``v - u``; its square norm is ``2 - 2 s_g``.

    Parameters
    ----------
    images, captions : ndarray of shape (n_images, n_dims), unit rows

    Returns
    -------
    ndarray of shape (n_images, n_dims).
    """
    return _float32(images) - _float32(captions)


def unexplained(embeddings: ArrayLike, captions: ArrayLike, regression: ArrayLike) -> Floats:
    """What captions leave unexplained of pictures, ``v - E[v | u]``.

    The difference ``v - u`` takes the caption off as it stands; this takes off what a linear
    regression, fitted on photographs, says that a picture with this caption looks like. It
    has less of the topic in it and none of the gap between the modalities.

    Parameters
    ----------
    embeddings : ndarray of shape (n_images, n_dims), of pictures or their parts
    captions : ndarray of shape (n_images, n_dims), unit rows
    regression : ndarray of shape (n_dims + 1, n_dims), of :func:`fit_regression`

    Returns
    -------
    ndarray of shape (n_images, n_dims).
    """
    weights = np.asarray(regression, np.float64)
    # In float64: in float32 a row's last bits would depend on the rows beside it.
    expected = np.asarray(captions, np.float64) @ weights[:-1] + weights[-1]
    return _float32(np.asarray(embeddings, np.float64) - expected)


def fit_regression(embeddings: ArrayLike, captions: ArrayLike, penalty: float = 10.0) -> Floats:
    """Ridge regression of picture embeddings on caption embeddings, for :func:`unexplained`.

    Parameters
    ----------
    embeddings, captions : ndarray of shape (n_images, n_dims), of photographs
    penalty : added to the captions' scatter matrix. Unit embeddings of a few thousand rows
        are nearly collinear in most directions, so there has to be one.

    Returns
    -------
    ndarray of shape (n_dims + 1, n_dims), the intercept in the last row.
    """
    x, y = np.asarray(captions, np.float64), np.asarray(embeddings, np.float64)
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    scatter = (x - x_mean).T @ (x - x_mean) + penalty * np.eye(x.shape[1])
    weights = np.linalg.solve(scatter, (x - x_mean).T @ (y - y_mean))
    return _float32(np.vstack([weights, y_mean - x_mean @ weights]))


def local_similarities(crops: ArrayLike, phrases: ArrayLike) -> Floats:
    """Cosine similarity of each object's crop and phrase, ``s_k = o_k . w_k``.

    Parameters
    ----------
    crops, phrases : ndarray of shape (n_images, n_objects, n_dims), unit rows

    Returns
    -------
    ndarray of shape (n_images, n_objects); meaningless where the object is padding.
    """
    return _float32(np.einsum("nkd,nkd->nk", _float32(crops), _float32(phrases)))


def image_similarities(images: ArrayLike, phrases: ArrayLike) -> Floats:
    """Cosine similarity of each whole image and each of its phrases, ``v . w_k``.

    Parameters
    ----------
    images : ndarray of shape (n_images, n_dims), unit rows
    phrases : ndarray of shape (n_images, n_objects, n_dims), unit rows

    Returns
    -------
    ndarray of shape (n_images, n_objects); meaningless where the object is padding.
    """
    return _float32(np.einsum("nd,nkd->nk", _float32(images), _float32(phrases)))


def local_misalignment(crops: ArrayLike, phrases: ArrayLike, grounded: Mask) -> Floats:
    """Mean difference of crop and phrase over the grounded objects, ``mean_k (o_k - w_k)``.

    Parameters
    ----------
    crops, phrases : ndarray of shape (n_images, n_objects, n_dims), unit rows
    grounded : bool ndarray of shape (n_images, n_objects)

    Returns
    -------
    ndarray of shape (n_images, n_dims); zeros where no object is grounded.
    """
    differences = _float32(crops) - _float32(phrases)
    total = differences.sum(axis=1, where=grounded[..., np.newaxis])
    count = grounded.sum(axis=1, dtype=np.float32)
    return _float32(total / np.maximum(count, 1)[:, np.newaxis])


@dataclass(frozen=True, eq=False)
class PooledSimilarities:
    """What the grounded objects' similarities come to; every array has shape (n_images,)."""

    min: Floats
    mean: Floats
    max: Floats
    std: Floats
    """Population standard deviation, so that one object gives 0."""
    count: NDArray[np.int32]


def pooled_similarities(similarities: ArrayLike, grounded: Mask) -> PooledSimilarities:
    """Minimum, mean, maximum, deviation and number of the grounded ``s_k``.

    Parameters
    ----------
    similarities : ndarray of shape (n_images, n_objects)
    grounded : bool ndarray of shape (n_images, n_objects)

    Returns
    -------
    PooledSimilarities, all zeros for an image with no grounded object.
    """
    # In float64 the mean of equal numbers rounds back to that number: min <= mean <= max holds.
    wide = _float32(similarities).astype(np.float64)
    count = grounded.sum(axis=1, dtype=np.int32)
    divisor = np.maximum(count, 1)
    mean = wide.sum(axis=1, where=grounded) / divisor
    square = np.square(wide - mean[:, np.newaxis])
    deviation = np.sqrt(square.sum(axis=1, where=grounded) / divisor)
    least = wide.min(axis=1, where=grounded, initial=np.inf)
    greatest = wide.max(axis=1, where=grounded, initial=-np.inf)
    any_grounded = count > 0
    return PooledSimilarities(
        min=_float32(np.where(any_grounded, least, 0)),
        mean=_float32(mean),
        max=_float32(np.where(any_grounded, greatest, 0)),
        std=_float32(deviation),
        count=count,
    )


def ungrounded_fraction(named: Mask, grounded: Mask) -> Floats:
    """Share of the caption's objects that were not found in the image.

    Parameters
    ----------
    named, grounded : bool ndarray of shape (n_images, n_objects)

    Returns
    -------
    ndarray of shape (n_images,), in [0, 1]; 0 where the caption names no object.
    """
    missing = (named & ~grounded).sum(axis=1, dtype=np.float32)
    return _float32(missing / np.maximum(named.sum(axis=1, dtype=np.float32), 1))


def centre(embeddings: ArrayLike, mean: ArrayLike) -> Floats:
    """Close the modality gap: subtract a modality's mean and make the rows unit again.

    Parameters
    ----------
    embeddings : ndarray of shape (..., n_dims)
    mean : ndarray of shape (n_dims,), of this modality's embeddings in the training split

    Returns
    -------
    ndarray of the shape of ``embeddings``; a row equal to the mean gives zeros.
    """
    centred = _float32(embeddings) - _float32(mean)
    norm = np.linalg.norm(centred, axis=-1, keepdims=True)
    return _float32(np.divide(centred, norm, out=np.zeros_like(centred), where=norm > 0))


def _float32(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float32)
