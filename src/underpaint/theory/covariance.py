"""One spectral covariance for every case: ``Sigma = Q diag(lambda) Q^T + rho (I - Q Q^T)``.

Full rank (Q square), low rank with residual variance rho, and isotropic (no Q) differ only in Q and rho. Every formula
of the theory is a function of Sigma, and `Covariance.spectral` applies any such function to rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

SpectralFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Covariance:
    """Eigenvalues [R] (float64, CPU, descending), orthonormal basis [D, R], and the residual variance outside its span.

    The basis decides dtype and device of all products; eigenvalues stay in float64, where gains are computed.
    """

    eigenvalues: Tensor
    basis: Tensor
    residual: float = 0.0

    def __post_init__(self) -> None:
        if self.basis.ndim != 2 or self.eigenvalues.shape != self.basis.shape[1:]:
            raise ValueError(
                f"A covariance needs eigenvalues [R] and a basis [D, R], got {tuple(self.eigenvalues.shape)} and "
                f"{tuple(self.basis.shape)}."
            )
        if self.rank > self.dimension:
            raise ValueError(f"A basis of {self.rank} vectors does not fit in {self.dimension} dimensions.")
        values = self.eigenvalues.detach().to("cpu", torch.float64)
        if not bool((torch.isfinite(values) & (values >= 0)).all()) or not 0 <= self.residual < float("inf"):
            raise ValueError("Eigenvalues and residual variance must be finite and >= 0.")
        object.__setattr__(self, "eigenvalues", values)

    @staticmethod
    def isotropic(dimension: int, variance: float, dtype: torch.dtype = torch.float32) -> Covariance:
        """``variance`` times the identity; no basis at all."""
        return Covariance(torch.empty(0, dtype=torch.float64), torch.empty(dimension, 0, dtype=dtype), variance)

    @staticmethod
    def of(matrix: Tensor, rank: int | None = None, dtype: torch.dtype = torch.float32) -> Covariance:
        """Eigendecompose a symmetric positive semi-definite [D, D] matrix in float64 on the CPU.

        ``rank`` keeps the leading directions and gives the others their mean variance, so that the trace is kept.
        Eigenvalues that are negative by rounding are set to 0.
        """
        values, vectors = torch.linalg.eigh(matrix.detach().to("cpu", torch.float64))
        full = Covariance(values.flip(0).clamp(min=0), vectors.flip(1).contiguous())
        return (full if rank is None else full.truncate(rank)).to(dtype=dtype)

    @property
    def dimension(self) -> int:
        return self.basis.shape[0]

    @property
    def rank(self) -> int:
        return self.basis.shape[1]

    @property
    def full(self) -> bool:
        """Whether the basis spans everything, so that no residual direction exists."""
        return self.rank == self.dimension

    @property
    def spectrum(self) -> Tensor:
        """All D eigenvalues, the residual variance repeated, float64."""
        rest = torch.full((self.dimension - self.rank,), self.residual, dtype=torch.float64)
        return torch.cat([self.eigenvalues, rest])

    def truncate(self, rank: int) -> Covariance:
        """Keep ``rank`` leading directions; the residual variance takes the mean of what is dropped (same trace)."""
        if not 0 <= rank <= self.dimension:
            raise ValueError(f"rank must lie between 0 and the dimension {self.dimension}, got {rank}.")
        if rank >= self.rank:
            return self
        dropped = self.spectrum[rank:]
        return Covariance(self.eigenvalues[:rank], self.basis[:, :rank].contiguous(), float(dropped.mean()))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Covariance:
        return replace(self, basis=self.basis.to(device=device, dtype=dtype))

    def matrix(self) -> Tensor:
        """The dense [D, D] matrix in float64: for tests and small problems."""
        basis = self.basis.to("cpu", torch.float64)
        dense = (basis * (self.eigenvalues - self.residual)) @ basis.T
        dense.diagonal().add_(self.residual)
        return dense

    @property
    def variances(self) -> Tensor:
        """The variance of each coordinate that `analyse` returns, float64."""
        outside = 0 if self.full else self.dimension
        return torch.cat([self.eigenvalues, torch.full((outside,), self.residual, dtype=torch.float64)])

    def analyse(self, rows: Tensor) -> Tensor:
        """Rows [B, D] as coordinates on the basis [B, R], followed by the part outside its span [B, D] where there is
        one.

        In these coordinates every g(Sigma) is a product with g(variances): one product with the basis at either end
        serves any number of them.
        """
        work = rows.to(self.basis.dtype)
        inside = work @ self.basis
        return inside if self.full else torch.cat([inside, work - inside @ self.basis.T], 1)

    def synthesise(self, coordinates: Tensor) -> Tensor:
        """The rows [B, D] of the coordinates that `analyse` gave."""
        if self.full:
            return coordinates @ self.basis.T
        return coordinates[:, : self.rank] @ self.basis.T + coordinates[:, self.rank :]

    def spectral(self, function: SpectralFunction, rows: Tensor) -> Tensor:
        """g(Sigma) applied to rows [B, D].

        ``function`` maps eigenvalues [K] (float64) to gains [K], or to [B, K] for one function a row. Two products with
        the basis, whatever the function.
        """
        work = rows.to(self.basis.dtype)
        gains = function(self.eigenvalues).to(work)
        if self.full:
            result = ((work @ self.basis) * gains) @ self.basis.T
        else:
            rest = function(torch.tensor([self.residual], dtype=torch.float64)).to(work)
            result = rest * work
            if self.rank:
                result = result + ((work @ self.basis) * (gains - rest)) @ self.basis.T
        return result.to(rows.dtype)
