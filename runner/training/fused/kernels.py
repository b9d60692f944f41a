"""The arithmetic of one fused step, compiled by Numba: K runs of LoRA behind a frozen base, on the CPU.

Everything is a *panel*: LANES neighbouring numbers side by side, so that every inner loop runs over LANES independent
sums and no sum is ever split between the lanes of a vector. An entry therefore has one order of summation, whatever the
stack, the number of threads or the width of the machine's vectors.

    points in lanes    Zt, Yt (chunks, n, LANES)    chunk c holds the points c·LANES …: forward
    columns in lanes   Zc, Yc (chunks, N, LANES)    chunk c holds the columns c·LANES …: backward

ReLU's slopes 1[y > 0] go from one to the other as bits: `slopes` (n / WORD, LANES) of a chunk of points has the points in
lanes, and bit b of word v is the slope of column v·WORD + b. So neither pass takes a bit alone.

A 4 × 4 block of coefficients stays in registers while four panels go by: 16 multiply-adds for 8 loads and 4 stores.
All kernels that call each other live in this file, because Numba's cache looks at one file's age only.
"""

from numba import float32, float64, prange, uint32, uintp

from runner.core.compiled import ONE, THREE, TWO, njit

LANES = 128
WORD = 32  # bits of a word of slopes
TILE = 256  # columns whose panels stay in the second-level cache while the runs of a group take turns
OPTIONS = {"fastmath": {"contract"}}
L = uintp(LANES)

inlined = njit(forceinline=True, **OPTIONS)  # a call costs a tenth of what the inner functions do


@inlined
def _block(coef, q, p):
    """The 4 × 4 block of coefficients at (q, p), row by row."""
    q, p = uintp(q), uintp(p)
    return (
        coef[q, p], coef[q, p + ONE], coef[q, p + TWO], coef[q, p + THREE],
        coef[q + ONE, p], coef[q + ONE, p + ONE], coef[q + ONE, p + TWO], coef[q + ONE, p + THREE],
        coef[q + TWO, p], coef[q + TWO, p + ONE], coef[q + TWO, p + TWO], coef[q + TWO, p + THREE],
        coef[q + THREE, p], coef[q + THREE, p + ONE], coef[q + THREE, p + TWO], coef[q + THREE, p + THREE],
    )  # fmt: skip


@inlined
def _accumulate(C, c, coef, q, p, X, x):
    """Panels C[c : c+4] += coef[q : q+4, p : p+4] · panels X[x : x+4]."""
    c00, c01, c02, c03, c10, c11, c12, c13, c20, c21, c22, c23, c30, c31, c32, c33 = _block(coef, q, p)
    c, x = uintp(c) * L, uintp(x) * L
    for lane in range(LANES):
        i = uintp(lane)
        x0, x1, x2, x3 = X[x + i], X[x + L + i], X[x + TWO * L + i], X[x + THREE * L + i]
        C[c + i] += c00 * x0 + c01 * x1 + c02 * x2 + c03 * x3
        C[c + L + i] += c10 * x0 + c11 * x1 + c12 * x2 + c13 * x3
        C[c + TWO * L + i] += c20 * x0 + c21 * x1 + c22 * x2 + c23 * x3
        C[c + THREE * L + i] += c30 * x0 + c31 * x1 + c32 * x2 + c33 * x3


@inlined
def _outputs(y, base, b, coef, q, p, X, x):
    """y[0 : 4] = panels base[b : b+4] + coef[q : q+4, p : p+4] · panels X[x : x+4]."""
    c00, c01, c02, c03, c10, c11, c12, c13, c20, c21, c22, c23, c30, c31, c32, c33 = _block(coef, q, p)
    b, x = uintp(b) * L, uintp(x) * L
    for lane in range(LANES):
        i = uintp(lane)
        x0, x1, x2, x3 = X[x + i], X[x + L + i], X[x + TWO * L + i], X[x + THREE * L + i]
        y[i] = base[b + i] + (c00 * x0 + c01 * x1 + c02 * x2 + c03 * x3)
        y[L + i] = base[b + L + i] + (c10 * x0 + c11 * x1 + c12 * x2 + c13 * x3)
        y[TWO * L + i] = base[b + TWO * L + i] + (c20 * x0 + c21 * x1 + c22 * x2 + c23 * x3)
        y[THREE * L + i] = base[b + THREE * L + i] + (c30 * x0 + c31 * x1 + c32 * x2 + c33 * x3)


@inlined
def _relu_readout(y, w, j, out, slopes):
    """out += w[j : j+4]ᵀ · ReLU(y[0 : 4]), then y ← 1[y > 0], the slope, which one word of `slopes` keeps as bit j % WORD."""
    w0, w1, w2, w3 = w[uintp(j)], w[uintp(j) + ONE], w[uintp(j) + TWO], w[uintp(j) + THREE]
    zero, one = float32(0), float32(1)
    bit0, bit1, bit2, bit3 = uint32(1 << j % WORD), uint32(2 << j % WORD), uint32(4 << j % WORD), uint32(8 << j % WORD)
    for lane in range(LANES):
        i = uintp(lane)
        y0, y1, y2, y3 = y[i], y[L + i], y[TWO * L + i], y[THREE * L + i]
        out[i] += w0 * max(y0, zero) + w1 * max(y1, zero) + w2 * max(y2, zero) + w3 * max(y3, zero)
        word = slopes[i]  # cast at every step: Numba takes 32 bits for 64, which halve a vector's lanes
        word = uint32(word | bit0) if y0 > zero else word
        word = uint32(word | bit1) if y1 > zero else word
        word = uint32(word | bit2) if y2 > zero else word
        slopes[i] = uint32(word | bit3) if y3 > zero else word
        y[i] = one if y0 > zero else zero
        y[L + i] = one if y1 > zero else zero
        y[TWO * L + i] = one if y2 > zero else zero
        y[THREE * L + i] = one if y3 > zero else zero


@inlined
def _square_readout(y, out):
    """out += Σ of the squares of y[0 : 4]."""
    for lane in range(LANES):
        i = uintp(lane)
        y0, y1, y2, y3 = y[i], y[L + i], y[TWO * L + i], y[THREE * L + i]
        out[i] += y0 * y0 + y1 * y1 + y2 * y2 + y3 * y3


@inlined
def _accumulate_slopes(C, c, coef, q, p, slopes, i):
    """Panels C[c : c+4] += coef[q : q+4, p : p+4] · slopes of the points i : i+4, of LANES columns: LANES / WORD words each."""
    c00, c01, c02, c03, c10, c11, c12, c13, c20, c21, c22, c23, c30, c31, c32, c33 = _block(coef, q, p)
    c, zero, one, none = uintp(c) * L, float32(0), float32(1), uint32(0)
    for word in range(LANES // WORD):
        v, s, at = uintp(word), uintp(i), c + uintp(word * WORD)
        s0, s1, s2, s3 = slopes[v, s], slopes[v, s + ONE], slopes[v, s + TWO], slopes[v, s + THREE]
        for lane in range(WORD):
            j, bit = at + uintp(lane), uint32(1 << lane)
            x0 = one if uint32(s0 & bit) != none else zero
            x1 = one if uint32(s1 & bit) != none else zero
            x2 = one if uint32(s2 & bit) != none else zero
            x3 = one if uint32(s3 & bit) != none else zero
            C[j] += c00 * x0 + c01 * x1 + c02 * x2 + c03 * x3
            C[L + j] += c10 * x0 + c11 * x1 + c12 * x2 + c13 * x3
            C[TWO * L + j] += c20 * x0 + c21 * x1 + c22 * x2 + c23 * x3
            C[THREE * L + j] += c30 * x0 + c31 * x1 + c32 * x2 + c33 * x3


@inlined
def _project(Z_A, A, Zt, first, last):
    """Z_A += A[:, first : last] · Zt[first : last]."""
    for j in range(first, last, 4):
        for a in range(0, A.shape[0], 4):
            _accumulate(Z_A, a, A, a, j, Zt, j)


@inlined
def _forward(out, M, Z_A, B, wB, w, Yt, relu, slopes, first, last, y):
    """Columns first : last of the layer's output y = Yt + B·Z_A: their part of `out` and of M = Σ_j wB_j · h_j.

    ReLU: out = Σ_j w_j·ReLU(y_j), h = 1[y > 0].  Identity: out = Σ_j y_j², h = y.
    """
    slopes[first // WORD : last // WORD] = 0
    for j in range(first, last, 4):
        _outputs(y, Yt, j, B, j, 0, Z_A, 0)
        for a in range(4, B.shape[1], 4):
            _accumulate(y, 0, B, j, a, Z_A, a)
        if relu:
            _relu_readout(y, w, j, out, slopes[j // WORD])
        else:
            _square_readout(y, out)
        for a in range(0, wB.shape[0], 4):
            _accumulate(M, a, wB, a, j, y, 0)


@inlined
def _backward(dA, dB, Z_A, P, D, Bt, Zc, Yc, relu, slopes, first, count, y):
    """Points first : first + count of one point chunk: dB += P·h, dA += D·Zc; ReLU's h is kept, else y is recomputed."""
    for i in range(0, count, 4):
        if not relu:
            _outputs(y, Yc, first + i, Z_A, i, 0, Bt, 0)
            for a in range(4, Z_A.shape[1], 4):
                _accumulate(y, 0, Z_A, i, a, Bt, a)
        for a in range(0, P.shape[0], 4):
            if relu:
                _accumulate_slopes(dB, a, P, a, i, slopes, i)
            else:
                _accumulate(dB, a, P, a, i, y, 0)
            _accumulate(dA, a, D, a, i, Zc, first + i)


@njit(parallel=True, **OPTIONS)
def pack(A, B, w, A_, B_, wB, Bt):
    """Factors A (K, r, n), B (K, n, r) in the shapes the passes read; ranks and columns beyond r and n stay 0.

    A_ (K, R, n'), B_ (K, n', R), wB = (w·B)ᵀ (K, R, n'), Bt = Bᵀ (K, chunks, R·LANES).
    """
    K, r, n = A.shape
    for k in prange(K):
        for a in range(r):
            for j in range(n):
                A_[k, a, j] = A[k, a, j]
        for j in range(n):
            for a in range(r):
                b = B[k, j, a]
                B_[k, j, a] = b
                wB[k, a, j] = w[j] * b
                Bt[k, j // LANES, a * LANES + j % LANES] = b


@njit(parallel=True, **OPTIONS)
def forward(A_, B, wB, w, Zt, Yt, target, relu, mean, groups, Z_A, P, D, slopes, out, sums, losses, scratch):
    """Forward pass, and all that the backward pass needs of it; one task per chunk of points and group of runs.

    Z_A (K, chunks, R·LANES) = A·z;  out (K, chunks, LANES) as in `_forward`;  slopes (K, chunks, n / WORD, LANES) for ReLU;
    P = g·Z_A, D = g·Σ_j wB_j·h_j with g = 2·mean·(out - target) for ReLU and g = 2·mean otherwise;  losses (K,) =
    mean·Σ (out - target)² or mean·Σ out, the sums (K, chunks) in float64.  Padding points have target (chunks, LANES) 0.
    """
    K, R, n = A_.shape
    two_mean = w.dtype.type(2 * mean)
    for item in prange(len(Zt) * groups):
        c, group = item // groups, item % groups
        runs = range(group * K // groups, (group + 1) * K // groups)
        for k in runs:
            Z_A[k, c], D[k, c], out[k, c] = 0, 0, 0
        for tile in range(0, n, TILE):
            for k in runs:
                _project(Z_A[k, c], A_[k], Zt[c], tile, min(tile + TILE, n))
        for tile in range(0, n, TILE):
            last = min(tile + TILE, n)
            for k in runs:
                y, bits = scratch[item], slopes[k, c]
                _forward(out[k, c], D[k, c], Z_A[k, c], B[k], wB[k], w, Yt[c], relu, bits, tile, last, y)
        for k in runs:
            sums[k, c] = 0
            for i in range(LANES):
                if relu:
                    error = out[k, c, i] - target[c, i]
                    sums[k, c] += float64(error) * float64(error)
                    g = two_mean * error
                else:
                    sums[k, c] += float64(out[k, c, i])
                    g = two_mean
                for a in range(i, R * LANES, LANES):
                    P[k, c, a] = g * Z_A[k, c, a]
                    D[k, c, a] *= g
    for k in range(K):
        total = 0.0
        for c in range(len(Zt)):
            total += sums[k, c]
        losses[k] = mean * total


@njit(parallel=True, **OPTIONS)
def backward(Bt, Z_A, P, D, w, Zc, Yc, relu, slopes, groups, dA, dB, grad_A, grad_B, scratch):
    """Gradients grad_A (K, r, n), grad_B (K, n, r) after `forward`; one task per chunk of columns and group of runs.

    dA = D·Z and dB = P·hᵀ (K, chunks, R·LANES) are working space; ∂L/∂A = dA and ∂L/∂B = (w·dB)ᵀ.
    """
    K, r, n = grad_A.shape
    R, points = Bt.shape[2] // LANES, Zc.shape[1] // LANES
    for item in prange(len(Zc) * groups):
        c, group = item // groups, item % groups
        runs = range(group * K // groups, (group + 1) * K // groups)
        for k in runs:
            dA[k, c], dB[k, c] = 0, 0
        for first in range(0, points, LANES):
            chunk, count = first // LANES, min(LANES, points - first)
            for k in runs:
                z = Z_A[k, chunk].reshape(R, LANES).T
                p, d = P[k, chunk].reshape(R, LANES), D[k, chunk].reshape(R, LANES)
                y, bits = scratch[item], slopes[k, chunk, c * (LANES // WORD) :]
                _backward(dA[k, c], dB[k, c], z, p, d, Bt[k, c], Zc[c], Yc[c], relu, bits, first, count, y)
        for k in runs:
            for j in range(c * LANES, min((c + 1) * LANES, n)):
                for a in range(r):
                    grad_A[k, a, j] = dA[k, c, a * LANES + j % LANES]
                    grad_B[k, j, a] = w[j] * dB[k, c, a * LANES + j % LANES]
