"""The restricted flow is the Hamiltonian flow of the restricted Hamiltonian."""

import torch

from sympformer.dynamics import SCHEMES, State, damping, follow
from sympformer.lab import SoftmaxFlow, VelocityFlow, hamiltonian
from sympformer.lab.sphere import on_sphere, retract, tangent

A = torch.tensor([[1.5, 0.2], [0.2, 0.8]], dtype=torch.float64)
EYE = torch.eye(2, dtype=torch.float64)


def test_on_the_circle_it_is_hamiltons_equation_in_the_angle():
    generator = torch.Generator().manual_seed(0)
    angle, momentum = torch.randn((2, 6), generator=generator, dtype=torch.float64)
    flow = SoftmaxFlow(A, 0.7 * EYE)

    def embed(angle, momentum):
        x = torch.stack([angle.cos(), angle.sin()], -1)
        along = torch.stack([-angle.sin(), angle.cos()], -1)
        return x, momentum[:, None] * along, along

    angle.requires_grad_()
    momentum.requires_grad_()
    x, p, along = embed(angle, momentum)
    d_angle, d_momentum = torch.autograd.grad(hamiltonian(flow(x), p), (angle, momentum))
    at = on_sphere(flow)(x)
    torch.testing.assert_close((at.velocity(p) * along).sum(-1), d_momentum, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close((at.force(p) * along).sum(-1), -d_angle, rtol=1e-11, atol=1e-11)


def test_momentum_and_velocity_form_agree_on_the_sphere():
    generator = torch.Generator().manual_seed(1)
    x, p = torch.randn((2, 7, 3), generator=generator, dtype=torch.float64)
    start = retract(State(x, p))
    A, B = 1.3 * torch.eye(3).double(), 0.6 * torch.eye(3).double()
    momentum, velocity = SoftmaxFlow(A, B), VelocityFlow(A, B)
    fast = State(start.x, momentum(start.x).velocity(start.p))
    gaps = []
    for steps in (50, 100):
        scheme = SCHEMES["strang"](damping("nesterov", r=3.0))
        ends = [
            follow(scheme, on_sphere(flow), s, 0.5 / steps, steps, project=retract).x[-1]
            for flow, s in ((momentum, start), (velocity, fast))
        ]
        gaps.append((ends[0] - ends[1]).abs().max())
    assert gaps[1] < 1e-3
    assert 3 < gaps[0] / gaps[1] < 5  # both are of order 2


def test_retraction_keeps_the_constraints():
    generator = torch.Generator().manual_seed(2)
    x, p = retract(State(*torch.randn((2, 5, 3), generator=generator)))
    torch.testing.assert_close(x.norm(dim=-1), torch.ones(5))
    torch.testing.assert_close((x * p).sum(-1), torch.zeros(5))
    torch.testing.assert_close(tangent(x, p), p)
