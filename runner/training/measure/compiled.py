"""Columns of `metrics` by Numba, for factors on the CPU: one pass over each run's factors, runs in parallel.

A run's numbers depend on that run alone, to the bit, which batched library products do not promise; and 40 small tensor
operations a step would cost more than a fused training step of a narrow model. All kernels that call each other live in
this file, because Numba's cache looks at one file's age only.
"""

import math

import numpy as np
import torch
from numba import prange, uintp
from torch import Tensor

from runner.core.compiled import ONE, THREE, TWO, njit

COLUMNS = (
    "grad/A grad/B param/A param/B feature/Z_A feature/Z_B weight/fro weight/spectral weight/stable_rank balance "
    "update/A update/B feature/delta_1 feature/delta_2 feature/delta_3 feature/dZ_B"
).split()
LANES = 64  # probe points side by side
TILE = 4 * LANES  # columns at a time, as float64 rows [A, dA, B, dB] that stay in the first-level caches
OPTIONS = {"fastmath": {"contract"}}  # no other order of summation than the one written here
L = uintp(LANES)


def has_kernels(device: torch.device) -> bool:
    """Whether what is compiled runs there."""
    return device.type == "cpu"


def panels(Z: Tensor) -> np.ndarray:
    """The probe Z (P, n_in) as `measure` reads it."""
    points, n_in = Z.shape
    chunks, tiles = -(-points // LANES), -(-n_in // TILE)
    padded = Z.new_zeros(chunks * LANES, tiles * TILE, dtype=torch.float64)
    padded[:points, :n_in] = Z
    return padded.view(chunks, LANES, -1).transpose(1, 2).flatten(1).contiguous().numpy()


@njit(**OPTIONS)
def _largest_eigenvalue(S):
    """Of a symmetric S (r, r), which is destroyed; nan if S is not finite.

    Householder reflections leave a tridiagonal matrix, of which Sturm's sequence tells how many eigenvalues exceed a number:
    bisection, down to neighbouring floating-point numbers.
    """
    r = len(S)
    v, w, off = np.zeros(r), np.zeros(r), np.zeros(r)
    for k in range(r - 1):
        square = 0.0
        for i in range(k + 1, r):
            square += S[i, k] * S[i, k]
        off[k + 1] = math.sqrt(square)
        if k == r - 2 or not square > 0.0:
            continue
        alpha = -math.copysign(off[k + 1], S[k + 1, k])
        for i in range(k + 1, r):
            v[i] = S[i, k]
        v[k + 1] -= alpha
        half = square - alpha * S[k + 1, k]  # ‖v‖² / 2
        inner = 0.0
        for i in range(k + 1, r):
            total = 0.0
            for j in range(k + 1, r):
                total += S[i, j] * v[j]
            w[i] = total / half
            inner += w[i] * v[i]
        for i in range(k + 1, r):
            w[i] -= 0.5 * inner / half * v[i]
        for i in range(k + 1, r):
            for j in range(k + 1, r):
                S[i, j] -= v[i] * w[j] + w[i] * v[j]
    low, high = S[0, 0], S[0, 0]
    for i in range(r):
        reach = off[i] + (off[i + 1] if i + 1 < r else 0.0)
        low, high = max(low, S[i, i]), max(high, S[i, i] + reach)
        if not math.isfinite(S[i, i] + reach):
            return math.nan
    for _ in range(200):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        above, pivot = False, 1.0
        for i in range(r):
            pivot = S[i, i] - middle - (off[i] * off[i] / pivot if i else 0.0)
            if pivot > 0.0:
                above = True
                break
            if pivot == 0.0:
                pivot = -1e-300
        if above:
            low = middle
        else:
            high = middle
    return high


@njit(**OPTIONS)
def _spectral(gram_A, gram_B):
    """‖B·A‖₂ from AAᵀ = LLᵀ (Cholesky; a direction that A lacks gives a zero column) and BᵀB: √λ_max(Lᵀ·BᵀB·L)."""
    r = len(gram_A)
    factor = np.zeros((r, r))
    for j in range(r):
        pivot = gram_A[j, j]
        for k in range(j):
            pivot -= factor[j, k] * factor[j, k]
        if pivot <= 1e-15 * gram_A[j, j] < math.inf:
            continue
        factor[j, j] = math.sqrt(pivot)
        for i in range(j + 1, r):
            entry = gram_A[i, j]
            for k in range(j):
                entry -= factor[i, k] * factor[j, k]
            factor[i, j] = entry / factor[j, j]
    half, product = np.zeros((r, r)), np.zeros((r, r))
    for i in range(r):
        for k in range(r):
            for j in range(r):
                half[i, j] += gram_B[i, k] * factor[k, j]
    for i in range(r):
        for k in range(r):
            for j in range(r):
                product[i, j] += factor[k, i] * half[k, j]
    largest = _largest_eigenvalue(product)
    return math.sqrt(max(largest, 0.0)) if largest == largest else largest


@njit(**OPTIONS)
def _size(gram, v, coordinates):
    """Mean over the columns of v (q, P) of √(vᵀ·gram·v / coordinates)."""
    square = np.zeros(v.shape[1])
    for i in range(len(v)):
        for j in range(len(v)):
            for p in range(v.shape[1]):
                square[p] += gram[i, j] * (v[i, p] * v[j, p])
    total = 0.0
    for p in range(v.shape[1]):  # rounding may leave a zero slightly negative
        total += math.sqrt(max(square[p], 0.0) / coordinates) if square[p] == square[p] else square[p]
    return total / v.shape[1]


@njit(forceinline=True, **OPTIONS)
def _sum(lanes):
    """Of LANES numbers, which are destroyed: halves are added to halves, down to eight."""
    for lane in range(LANES // 2):
        lanes[uintp(lane)] += lanes[uintp(LANES // 2) + uintp(lane)]
    for lane in range(LANES // 4):
        lanes[uintp(lane)] += lanes[uintp(LANES // 4) + uintp(lane)]
    for lane in range(LANES // 8):
        lanes[uintp(lane)] += lanes[uintp(LANES // 8) + uintp(lane)]
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]))


@njit(**OPTIONS)
def _norm(x, lanes):
    """Frobenius norm; entry i of x joins the sum in lane i % LANES of `lanes`."""
    flat = x.reshape(-1)
    lanes[:] = 0.0
    for first in range(0, len(flat), LANES):
        for lane in range(min(LANES, len(flat) - first)):
            i = uintp(lane)
            entry = np.float64(flat[uintp(first) + i])
            lanes[i] += entry * entry
    return math.sqrt(_sum(lanes))


@njit(**OPTIONS)
def _add_products(gram, rows, first, count, lanes):
    """gram += X·Xᵀ for the `count` rows X of `rows` from `first` on; a sum takes LANES entries at a time in `lanes`."""
    X = rows.reshape(-1)
    for a in range(count):
        for b in range(a + 1):
            x, y = uintp((first + a) * TILE), uintp((first + b) * TILE)
            for lane in range(LANES):
                i, j = x + uintp(lane), y + uintp(lane)
                near = X[i] * X[j] + X[L + i] * X[L + j]
                lanes[uintp(lane)] = near + X[TWO * L + i] * X[TWO * L + j] + X[THREE * L + i] * X[THREE * L + j]
            gram[a, b] += _sum(lanes)


@njit(**OPTIONS)
def _add_features(features, f, rows, q, Zt):
    """Panels f : f + 4 of `features`, LANES probe points each, += rows[q : q+4] · the TILE panels of Zt."""
    f = uintp(f) * L
    for first in range(0, TILE, 4):
        j = uintp(first)
        a0, a1, a2, a3 = rows[q, j], rows[q, j + ONE], rows[q, j + TWO], rows[q, j + THREE]
        b0, b1, b2, b3 = rows[q + 1, j], rows[q + 1, j + ONE], rows[q + 1, j + TWO], rows[q + 1, j + THREE]
        c0, c1, c2, c3 = rows[q + 2, j], rows[q + 2, j + ONE], rows[q + 2, j + TWO], rows[q + 2, j + THREE]
        d0, d1, d2, d3 = rows[q + 3, j], rows[q + 3, j + ONE], rows[q + 3, j + TWO], rows[q + 3, j + THREE]
        z = j * L
        for lane in range(LANES):
            i = uintp(lane)
            z0, z1, z2, z3 = Zt[z + i], Zt[z + L + i], Zt[z + TWO * L + i], Zt[z + THREE * L + i]
            features[f + i] += a0 * z0 + a1 * z1 + a2 * z2 + a3 * z3
            features[f + L + i] += b0 * z0 + b1 * z1 + b2 * z2 + b3 * z3
            features[f + TWO * L + i] += c0 * z0 + c1 * z1 + c2 * z2 + c3 * z3
            features[f + THREE * L + i] += d0 * z0 + d1 * z1 + d2 * z2 + d3 * z3


@njit(**OPTIONS)
def _read(rows, A, new_A, B, new_B, first):
    """rows (4r + …, TILE) = [A, dA, B, dB] of one run, columns first : first + TILE, zeros beyond the last."""
    r, n_in = A.shape
    n_out = len(B)
    if first + TILE > min(n_in, n_out):
        rows[:] = 0.0
    flat_B, flat_new_B, width = B.reshape(-1), new_B.reshape(-1), uintp(r)
    for a in range(r):
        for column in range(min(TILE, n_in - first)):
            j, i = uintp(column), uintp(first + column)
            rows[a, j] = A[a, i]
            rows[r + a, j] = np.float64(new_A[a, i]) - np.float64(A[a, i])
        for column in range(min(TILE, n_out - first)):
            j, i = uintp(column), uintp(first + column) * width + uintp(a)
            rows[2 * r + a, j] = flat_B[i]
            rows[3 * r + a, j] = np.float64(flat_new_B[i]) - np.float64(flat_B[i])


@njit(**OPTIONS)
def _finish(gram_A, gram_dA, gram, features, gradients, scale, points, n_out, lanes, out):
    """One run's columns `out`, from its Gram matrices (lower triangles) and its features, LANES points side by side."""
    r = len(gram_A)
    for g in (gram_A, gram):
        for i in range(len(g)):
            for j in range(i):
                g[j, i] = g[i, j]
    gram_B, gram_dB = gram[:r, :r], gram[r:, r:]
    Z_A, dZ_A = np.empty((r, points)), np.empty((r, points))
    for p in range(points):
        for a in range(r):
            Z_A[a, p] = features[p // LANES, a * LANES + p % LANES]
            dZ_A[a, p] = features[p // LANES, (r + a) * LANES + p % LANES]
    moved = np.concatenate((dZ_A, Z_A + dZ_A))
    fro = scale * math.sqrt(max(np.sum(gram_A * gram_B), 0.0))
    spectral = scale * _spectral(gram_A, gram_B)
    out[0] = _norm(gradients[0], lanes)
    out[1] = _norm(gradients[1], lanes)
    out[2] = math.sqrt(np.trace(gram_A))
    out[3] = math.sqrt(np.trace(gram_B))
    out[4] = _size(np.eye(r), Z_A, r)
    out[5] = scale * _size(gram_B, Z_A, n_out)
    out[6] = fro
    out[7] = spectral
    out[8] = (fro / spectral) ** 2
    out[9] = _norm(gram_B - gram_A, lanes)
    out[10] = math.sqrt(np.trace(gram_dA))
    out[11] = math.sqrt(np.trace(gram_dB))
    out[12] = scale * _size(gram_B, dZ_A, n_out)
    out[13] = scale * _size(gram_dB, Z_A, n_out)
    out[14] = scale * _size(gram_dB, dZ_A, n_out)
    out[15] = scale * _size(gram, moved, n_out)


@njit(parallel=True, **OPTIONS)
def measure(A, B, grad_A, grad_B, new_A, new_B, scale, Zt, points, groups, out):
    """Fill out (columns, K) in the order of COLUMNS; A, B before an update, new_A, new_B after it.

    Zt (chunks, tiles·TILE·LANES), float64, is the probe of `points` inputs: LANES points side by side, zeros beyond. The
    runs of each of the `groups`, which are spread over the threads, take turns on a tile of it while it is in the cache.
    """
    K, r, n_in = A.shape
    n_out = B.shape[1]
    R = (2 * r + 3) // 4 * 4
    for group in prange(groups):
        first_run, last_run = group * K // groups, (group + 1) * K // groups
        rows, lanes = np.zeros((4 * r + 3, TILE)), np.zeros(LANES)
        gram_A, gram_dA = np.zeros((last_run - first_run, r, r)), np.zeros((last_run - first_run, r, r))
        gram = np.zeros((last_run - first_run, 2 * r, 2 * r))
        features = np.zeros((last_run - first_run, len(Zt), R * LANES))  # Z_A, dZ_A; what follows them means nothing
        for first in range(0, max(n_in, n_out), TILE):
            for k in range(first_run, last_run):
                i = k - first_run
                _read(rows, A[k], new_A[k], B[k], new_B[k], first)
                _add_products(gram_A[i], rows, 0, r, lanes)
                _add_products(gram_dA[i], rows, r, r, lanes)
                _add_products(gram[i], rows, 2 * r, 2 * r, lanes)
                for c in range(len(Zt) if first < n_in else 0):
                    for q in range(0, 2 * r, 4):
                        _add_features(features[i, c], q, rows, q, Zt[c, first * LANES :])
        for k in range(first_run, last_run):
            i = k - first_run
            gradients = grad_A[k], grad_B[k]
            _finish(gram_A[i], gram_dA[i], gram[i], features[i], gradients, scale[k], points, n_out, lanes, out[:, k])
