"""The canonical rotation: the one coordinate system in which single factors mean something.

P Qᵀ = (P A)(Q A⁻ᵀ)ᵀ for every invertible A, so the factors that ALS ends at are an accident. The
canonical pair is P* = U √S, Q* = V √S with P Qᵀ = U S Vᵀ (the singular value decomposition), the
factors ordered by S and signed so that each item factor has a non-negative sum.

The sizes of P and Q do not matter: with the Gram matrices' square roots A = (PᵀP)^½, B = (QᵀQ)^½
and A Bᵀ = W S Zᵀ it is P* = P A⁺ W √S and Q* = Q B⁺ Z √S.
"""

from dataclasses import dataclass

import numpy as np

from mfspark.kernels.arrays import Float64s

# Directions whose share of a Gram matrix is below float32 rounding (1e-7 squared) are noise.
_NEGLIGIBLE = 1e-14


@dataclass(frozen=True)
class Rotation:
    """Right-multiply user factors by ``users`` and item factors by ``items``, both [rank, rank].

    ``singular_values`` float64 [rank], descending: Σ_ui (p_uf q_if)² over all user-item pairs is
    the square of value f, so its share of the sum of squares is the factor's share of the
    interaction's variance around zero.
    """

    users: Float64s
    items: Float64s
    singular_values: Float64s

    @property
    def user_penalty(self) -> Float64s:
        """M, float64 [rank, rank], with |p|² = p* M p*ᵀ for the user factors p that p* was made of.

        A ridge solution is one in its own coordinates alone: what shrinks |p|² shrinks p* by M.
        """
        inverse = np.linalg.pinv(self.users) if self.users.size else self.users
        penalty: Float64s = inverse @ inverse.T
        return penalty

    def scaled(self, scale: float) -> "Rotation":
        """The rotation to factors whose products are ``scale`` times as large."""
        root = np.sqrt(scale)
        return Rotation(root * self.users, root * self.items, scale * self.singular_values)


def canonical_rotation(user_gram: Float64s, item_gram: Float64s, item_sums: Float64s) -> Rotation:
    """Find the rotation from PᵀP, QᵀQ (float64 [rank, rank]) and the column sums of Q [rank]."""
    rank = len(item_sums)
    assert user_gram.shape == item_gram.shape == (rank, rank)
    assert user_gram.dtype == item_gram.dtype == np.float64
    if not rank:
        return Rotation(user_gram, item_gram, item_sums)
    user_root, user_inverse = _square_root(user_gram)
    item_root, item_inverse = _square_root(item_gram)
    left, singular_values, right = np.linalg.svd(user_root @ item_root.T)
    users = user_inverse @ left * np.sqrt(singular_values)
    items = item_inverse @ right.T * np.sqrt(singular_values)
    signs = np.where(item_sums @ items < 0, -1.0, 1.0)
    return Rotation(users * signs, items * signs, singular_values)


def _square_root(gram: Float64s) -> tuple[Float64s, Float64s]:
    """Symmetric square root of a positive semi-definite matrix, and its pseudo-inverse."""
    values, vectors = np.linalg.eigh(gram)
    keep = values > _NEGLIGIBLE * max(float(values[-1]), np.finfo(np.float64).tiny)
    roots = np.sqrt(np.where(keep, values, 0))
    inverses = np.divide(1, roots, out=np.zeros_like(roots), where=keep)
    return (vectors * roots) @ vectors.T, (vectors * inverses) @ vectors.T
