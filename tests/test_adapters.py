"""The stacked adapter against explicit weights and against PEFT, run by run, in float64."""

import peft
import pytest
import torch
from conftest import rejects
from torch.autograd.gradcheck import GradcheckError, gradcheck

from runner.adapters import AddProduct, LoRA

RUNS, RANK, N_IN, N_OUT, POINTS = 3, 4, 10, 7, 6
ALPHAS = [4.0, 1.0, 16.0]


@pytest.fixture
def problem():
    g = torch.Generator().manual_seed(0)
    A, B, W0, x = (
        torch.randn(*shape, generator=g, dtype=torch.float64)
        for shape in ((RUNS, RANK, N_IN), (RUNS, N_OUT, RANK), (N_OUT, N_IN), (POINTS, N_IN))
    )
    stacked = LoRA.stack(list(zip(A, B, strict=True)), ALPHAS, torch.device("cpu"), torch.float64)
    return stacked, A, B, W0, x


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_output_is_that_of_the_explicit_weight(problem):
    stacked, A, B, W0, x = problem
    y = stacked(x, x @ W0.T)
    explicit = torch.stack([x @ (W0 + alpha / RANK * B[k] @ A[k]).T for k, alpha in enumerate(ALPHAS)])
    close(y, explicit)
    rejects(close, y, explicit.flip(0))


def test_the_gradients_written_by_hand_are_those_of_finite_differences(problem):
    _, _, B, *_ = problem
    g = torch.Generator().manual_seed(1)
    y0, Z = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((POINTS, N_OUT), (RUNS, POINTS, RANK)))
    inputs = [t.requires_grad_() for t in (y0, Z, B.clone())]
    assert gradcheck(AddProduct.apply, inputs, rtol=1e-6)  # bilinear: central differences err by rounding alone

    class Wrong(AddProduct):
        @staticmethod
        def backward(ctx, grad):
            return AddProduct.backward(ctx, (1 + 1e-5) * grad)

    with pytest.raises(GradcheckError):
        gradcheck(Wrong.apply, inputs, rtol=1e-6)


def test_output_and_gradients_agree_with_peft(problem):
    stacked, A, B, W0, x = problem
    target = torch.ones(N_OUT, dtype=torch.float64)
    losses = (stacked(x, x @ W0.T) - target).pow(3).mean((1, 2))
    grad_A, grad_B = torch.autograd.grad(losses.sum(), [stacked.A, stacked.B])
    for k, alpha in enumerate(ALPHAS):
        base = torch.nn.Sequential(torch.nn.Linear(N_IN, N_OUT, bias=False, dtype=torch.float64))
        config = peft.LoraConfig(r=RANK, lora_alpha=alpha, target_modules=["0"])
        model = peft.get_peft_model(base, config, autocast_adapter_dtype=False)
        layer = model.base_model.model[0]
        theirs = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        with torch.no_grad():
            layer.base_layer.weight.copy_(W0)
            for parameter, value in zip(theirs, (A[k], B[k]), strict=True):
                parameter.copy_(value)
        loss = (model(x) - target).pow(3).mean()
        expected = torch.autograd.grad(loss, theirs)
        close(losses[k], loss)
        close(grad_A[k], expected[0])
        close(grad_B[k], expected[1])
        rejects(close, grad_A[k], 1.001 * expected[0])


def test_gradients_of_a_run_do_not_depend_on_its_neighbours(problem):
    stacked, A, B, W0, x = problem
    broken = LoRA(A.clone(), B.clone(), stacked.scale.clone())
    with torch.no_grad():
        broken.A[1] = torch.nan
    gradients = [
        torch.autograd.grad(adapter(x, x @ W0.T).square().mean((1, 2)).sum(), [adapter.A, adapter.B])
        for adapter in (stacked, broken)
    ]
    for clean, other in zip(*gradients, strict=True):
        assert torch.equal(clean[[0, 2]], other[[0, 2]])
        assert other[1].isnan().any()
