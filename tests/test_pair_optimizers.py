"""LoRA-RITE and LoRA-Muon beside what is written out for one run, and what they promise of B·A, whatever its factors."""

from types import SimpleNamespace

import pytest
import torch
from conftest import configure, rejects
from test_checkpoint import same as same_runs

from runner.config.identity import with_values
from runner.training.optimizers.base import build
from runner.training.train import train

DOUBLE = torch.float64
R, N_IN, N_OUT, K = 3, 7, 5, 3
STEPS, LR = 12, 0.05
RITE = {"name": "lora_rite", "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.0}
MUON = {"name": "lora_muon", "momentum": 0.9, "weight_decay": 0.0}


def start(B=1.0):
    g = torch.Generator().manual_seed(0)
    A = torch.randn(K, R, N_IN, generator=g, dtype=DOUBLE)
    return A, B * torch.randn(K, N_OUT, R, generator=g, dtype=DOUBLE)


PHASES = torch.randn(N_OUT, N_IN, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)


def slope(W, t):
    """∂L/∂W of some loss of W = B·A, of full rank at the start, too."""
    return torch.sin(3 * W + t + PHASES[:, : W.shape[-1]]) + 0.3 * W


def ours(*configs, A=None, B=None, lr=LR, by=slope):
    """B·A (K, …) after every step, of these optimizers, and the factors at the end."""
    first = start()
    parameters = [(first[0] if A is None else A).clone(), (first[1] if B is None else B).clone()]
    optimizer, path = build([SimpleNamespace(**c) for c in configs], parameters), []
    for t in range(STEPS):
        A, B = parameters
        G = by(B @ A, t)
        optimizer.step([B.mT @ G, G @ A.mT], torch.full((2, len(A)), lr, dtype=DOUBLE))
        path.append(B @ A)
    return torch.stack(path), parameters


def written_out_rite(c, A, B, escapes=True):
    """One run, by the paper's QR: B = Q·T with T⁻¹ a pseudo-inverse; moments with decays that begin at zero."""
    path, sides = [], {"A": {}, "B": {}}
    for t in range(STEPS):
        G = slope(B @ A, t)
        new = {}
        for name, own, other, g in (("A", A, B, B.T @ G), ("B", B.T, A.T, A @ G.T)):
            Q, T = torch.linalg.qr(other)
            inv = torch.linalg.pinv(T, rtol=1e-7)
            if not other.any():
                Q = torch.zeros_like(Q)
            ungrown = inv.T @ g
            s = sides[name]
            V, M, old, rho = (s.get(k) for k in ("V", "M", "Q", "rho"))
            if V is None:
                V, M, old, rho = torch.zeros(R, R, dtype=DOUBLE), torch.zeros_like(g), Q, 0.0
            b1, b2 = (b * (1 - b**t) / (1 - b ** (t + 1)) for b in (c["beta1"], c["beta2"]))
            P = Q.T @ old
            moved = P @ V @ P.T
            lost = (torch.linalg.eigvalsh(V) - torch.linalg.eigvalsh(moved)).max().clamp_min(0)
            rho = b2 * (rho + lost) if escapes else 0.0
            V = b2 * moved + (1 - b2) * ungrown @ ungrown.T / g.shape[1]
            w, E = torch.linalg.eigh(V)
            scale = E @ torch.diag(1 / ((w + rho).clamp_min(0).sqrt() + c["eps"])) @ E.T
            M = b1 * P @ M + (1 - b1) * scale @ ungrown
            sides[name] = {"V": V, "M": M, "Q": Q, "rho": rho}
            new[name] = (1 - LR * c["weight_decay"]) * own - LR * inv @ M
        A, B = new["A"], new["B"].T
        path.append(B @ A)
    return torch.stack(path)


def written_out_muon(c, A, B):
    path, m_A, m_B = [], torch.zeros_like(A), torch.zeros_like(B)

    def polar(X):
        U, S, Vh = torch.linalg.svd(X, full_matrices=False)
        return U @ torch.diag((S > 1e-7 * S.max()).double()) @ Vh

    def root(S):
        w, E = torch.linalg.eigh(S)
        inverse = torch.where(w > 1e-14 * w.max(), w, torch.inf).rsqrt()
        return E @ torch.diag(inverse) @ E.T

    for t in range(STEPS):
        G = slope(B @ A, t)
        m_A, m_B = (c["momentum"] * m + (1 - c["momentum"]) * g for m, g in ((m_A, B.T @ G), (m_B, G @ A.T)))
        R_A, R_B = root(A @ A.T), root(B.T @ B)
        keeps = (1 - LR * c["weight_decay"]) ** 0.5
        A, B = (
            keeps * A - LR / (2 * keeps) * R_B @ polar(R_B @ m_A),
            keeps * B - LR / (2 * keeps) * polar(m_B @ R_A) @ R_A,
        )
        path.append(B @ A)
    return torch.stack(path)


def same(mine, reference):
    torch.testing.assert_close(mine, reference, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("B", [0.0, 1.0, 1e-3], ids=["B at zero", "both", "B small"])
@pytest.mark.parametrize(("written_out", "base", "changes"), [
    (written_out_rite, RITE, [{}, {"weight_decay": 0.1}, {"beta1": 0.5, "beta2": 0.7, "eps": 0.1}]),
    (written_out_muon, MUON, [{}, {"weight_decay": 0.1}, {"momentum": 0.0}]),
], ids=["rite", "muon"])  # fmt: skip
def test_each_is_what_its_paper_writes(written_out, base, changes, B):
    """Runs of one stack with options of their own."""
    A, B = start(B)
    configs = [base | change for change in changes]
    path, _ = ours(*configs, A=A, B=B)
    reference = torch.stack([written_out(c, A[k], B[k]) for k, c in enumerate(configs)], 1)
    same(path, reference)
    rejects(same, path, torch.stack([written_out(base, A[k], B[k]) for k in range(K)], 1))


def test_what_escapes_a_turning_basis_counts():
    A, B = start()
    path, _ = ours(*[RITE] * K)
    rejects(same, path, torch.stack([written_out_rite(RITE, A[k], B[k], escapes=False) for k in range(K)], 1))


@pytest.mark.parametrize("config", [RITE, MUON], ids=["rite", "muon"])
def test_the_product_does_not_know_its_factors(config):
    """A → c·A, B → B/c to the bit where c is a power of 4; A → T·A, B → B·T⁻¹ of any invertible T to rounding."""
    A, B = start()
    T = torch.randn(K, R, R, generator=torch.Generator().manual_seed(2), dtype=DOUBLE) + 2 * torch.eye(R, dtype=DOUBLE)

    def scaled(config):
        assert torch.equal(ours(*[config] * K)[0], ours(*[config] * K, A=4 * A, B=B / 4)[0])

    def turned(config):
        mixed = ours(*[config] * K, A=T @ A, B=B @ torch.linalg.inv(T))[0]
        torch.testing.assert_close(ours(*[config] * K)[0], mixed, rtol=1e-7, atol=1e-8)

    adam = {"name": "adamw", "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.0}
    for check in (scaled, turned):
        check(config)
        rejects(check, adam)


def test_without_memory_both_are_the_same_but_for_the_size():
    """LoRA-RITE whitens with second moments per column, so that its singular values are √n of the side that it moves."""
    A, B = start()
    square = A[:, :, :N_OUT], B
    plain = {"beta1": 0.0, "beta2": 0.0, "eps": 1e-300}
    rite, _ = ours(*[RITE | plain] * K, A=square[0], B=square[1], lr=LR)
    muon, _ = ours(*[MUON | {"momentum": 0.0}] * K, A=square[0], B=square[1], lr=2 * LR * N_OUT**0.5)
    same(rite, muon)
    rejects(same, rite, ours(*[MUON] * K, A=square[0], B=square[1], lr=2 * LR * N_OUT**0.5)[0])


def test_muon_moves_the_product_by_its_rate():
    """Each factor by lr/2 in the spectral norm, whatever the gradient's size; the other one held."""
    A, B = start()
    small = lambda W, t: 1e-9 * slope(W, t)  # noqa: E731
    for by in (slope, small):
        parameters = [A.clone(), B.clone()]
        optimizer = build([SimpleNamespace(**MUON)] * K, parameters)
        G = by(B @ A, 0)
        optimizer.step([B.mT @ G, G @ A.mT], torch.tensor([[LR], [0.0]], dtype=DOUBLE).expand(2, K))
        moved = B @ (parameters[0] - A)
        torch.testing.assert_close(torch.linalg.svdvals(moved)[:, :R], torch.full((K, R), LR / 2, dtype=DOUBLE))


def test_rounding_alone_is_no_direction():
    """A gradient of rank 1 in float32: LoRA-Muon moves one direction, however A is conditioned, update after update."""
    g = torch.Generator().manual_seed(4)
    left, right = torch.randn(K, 64, 1, generator=g), torch.randn(K, 1, 48, generator=g)
    A = torch.randn(K, 8, 48, generator=g) * torch.logspace(0, -3, 8)[:, None]
    parameters = [A.clone(), torch.zeros(K, 64, 8)]
    optimizer = build([SimpleNamespace(**MUON)] * K, parameters)
    for _ in range(30):
        A, B = parameters
        before, G = B @ A, left @ right
        optimizer.step([B.mT @ G, G @ A.mT], torch.full((2, K), LR, dtype=DOUBLE))
        S = torch.linalg.svdvals((B @ A).double() - before.double())
        assert (S[:, 0] > 0.3 * LR).all() and (S[:, 1] < 1e-3 * S[:, 0]).all()


TOY = "task.width=16 task.teacher_width=16 task.train_points=20 steps=40".split()


@pytest.mark.parametrize("name", ["lora_rite", "lora_muon"])
def test_a_run_has_the_numbers_that_it_has_alone(name):
    """Whatever runs are beside it, one of which freezes a factor and one breaks down."""
    base = configure(*TOY, f"optimizer={name}", "init=gaussian_AB")
    changes = [{}, {"adapter.freeze": "A"}, {"optimizer.lr": 1e6}, {"optimizer.lr_ratio": 2.0}, {"init.scale": 0.5}]
    configs = [with_values(base, change) for change in changes]
    outcomes = train(configs)
    same_runs([train([config])[0] for config in configs], outcomes)
    assert [o.status for o in outcomes] == ["finished", "finished", "diverged", "finished", "finished"]
    assert (outcomes[1].steps["update/A"].dropna() == 0).all() and (outcomes[0].steps["update/A"].dropna() > 0).all()


REFUSED = {
    "optimizer.weight_decay=50.0: takes all of B·A in one update at the rate 0.02; it must be below 50": [
        "optimizer=lora_muon",
        "optimizer.weight_decay=50",
        "optimizer.lr_ratio=2",
    ],
    "optimizer=lora_rite: trains factors A and B alone, and adapter=dora trains A, B, m; choose one of lora, rslora": [
        "adapter=dora",
        "optimizer=lora_rite",
    ],
    "optimizer=lora_muon: trains factors A and B alone, and adapter=vera": ["adapter=vera", "optimizer=lora_muon"],
    "optimizer.riemannian=0.1: optimizer=lora_rite preconditions": ["optimizer=lora_rite", "optimizer.riemannian=0.1"],
    "sharpness.every=2: optimizer=lora_muon changes updates": ["optimizer=lora_muon", "sharpness.every=2"],
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_is_refused(message, cli):
    code, _, err = cli("experiment=mine", *TOY, *REFUSED[message])
    assert code != 0 and message in err and "Traceback" not in err, err
