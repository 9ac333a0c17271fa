"""What LoRA, LoKr and LoHa add to a weight, against sums over their elements."""

import pytest
import torch

from alignbench.models.weights.weight_changes import change_size, weight_change


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def kronecker(first, second):
    """Return entry [i p + k, j q + l] = first[i, j] second[k, l], one by one."""
    (m, n), (p, q) = first.shape, second.shape
    found = torch.empty(m * p, n * q)
    for i in range(m):
        for j in range(n):
            for k in range(p):
                for m_ in range(q):
                    found[i * p + k, j * q + m_] = first[i, j] * second[k, m_]
    return found


def convolution(core, rows, columns):
    """Return entry [p, r, k, l] = sum over i, j of core[i, j, k, l] rows[i, p] columns[j, r]."""
    found = torch.zeros(rows.shape[1], columns.shape[1], *core.shape[2:])
    for i in range(core.shape[0]):
        for j in range(core.shape[1]):
            found += rows[i][:, None, None, None] * columns[j][None, :, None, None] * core[i, j]
    return found


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_lora_has_alpha_over_rank():
    down, up = draw(2, 5), draw(3, 2)
    same(weight_change({"down": down, "up": up}), up @ down)
    same(weight_change({"down": down, "up": up, "alpha": torch.tensor(3.0)}), 1.5 * up @ down)


def test_a_lokr_of_whole_factors_is_their_kronecker_product_whatever_its_alpha():
    first, second = draw(2, 3), draw(4, 5)
    for alpha in ({}, {"alpha": torch.tensor(1e10)}):
        same(weight_change({"lokr_w1": first, "lokr_w2": second} | alpha), kronecker(first, second))


@pytest.mark.parametrize("split", ["w1", "w2", "both"])
def test_a_lokr_with_a_factor_of_low_rank_has_alpha_over_that_rank(split):
    parts, factors = {}, []
    for name, rows, columns in (("w1", 2, 3), ("w2", 4, 5)):
        if split in (name, "both"):
            one, other = draw(rows, 2), draw(2, columns)
            parts |= {f"lokr_{name}_a": one, f"lokr_{name}_b": other}
            factors.append(one @ other)
        else:
            factors.append(draw(rows, columns, seed=9))
            parts[f"lokr_{name}"] = factors[-1]
    same(weight_change(parts), kronecker(*factors))
    same(weight_change(parts | {"alpha": torch.tensor(0.5)}), 0.25 * kronecker(*factors))


def test_a_lokr_of_a_convolution_in_all_its_forms():
    first, second = draw(2, 3), draw(4, 5, 3, 3)
    expected = torch.stack(
        [torch.stack([kronecker(first, second[:, :, k, m]) for m in range(3)], -1) for k in range(3)], -2
    ).flatten(1)
    same(weight_change({"lokr_w1": first, "lokr_w2": second}), expected)
    one, other = draw(4, 2), draw(2, 5 * 3 * 3)
    joined = weight_change({"lokr_w1": first, "lokr_w2": (one @ other).reshape(4, 5, 3, 3)})
    same(weight_change({"lokr_w1": first, "lokr_w2_a": one, "lokr_w2_b": other}), joined)

    core, rows, columns = draw(2, 2, 3, 3), draw(2, 4), draw(2, 5)
    tucker = {"lokr_w1": first, "lokr_t2": core, "lokr_w2_a": rows, "lokr_w2_b": columns}
    joined = weight_change({"lokr_w1": first, "lokr_w2": convolution(core, rows, columns)})
    same(weight_change(tucker), joined)
    same(weight_change(tucker | {"alpha": torch.tensor(3.0)}), 1.5 * joined)


def test_a_loha_is_the_product_of_elements():
    one, two, three, four = draw(3, 2), draw(2, 5), draw(3, 2, seed=1), draw(2, 5, seed=1)
    parts = {"hada_w1_a": one, "hada_w1_b": two, "hada_w2_a": three, "hada_w2_b": four}
    same(weight_change(parts), (one @ two) * (three @ four))
    same(weight_change(parts | {"alpha": torch.tensor(1.0)}), 0.5 * (one @ two) * (three @ four))


def test_a_loha_of_a_convolution():
    factors = [(draw(2, 2, 3, 3, seed=s), draw(2, 4, seed=s), draw(2, 5, seed=s)) for s in (0, 1)]
    parts = {}
    for number, (core, rows, columns) in enumerate(factors, start=1):
        parts |= {f"hada_t{number}": core, f"hada_w{number}_a": rows, f"hada_w{number}_b": columns}
    expected = convolution(*factors[0]) * convolution(*factors[1])
    same(weight_change(parts), expected.flatten(1))


def test_the_size_is_known_without_the_change():
    huge = torch.ones(1, 1).expand(10**4, 10**4)
    assert change_size({"lokr_w1": huge, "lokr_w2": huge}) == (10**8, 10**8)
    assert change_size({"down": draw(2, 5, 3, 3), "up": draw(3, 2, 1, 1)}) == (3, 45)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"lokr_w1": (2, 2)}, "lokr_w2_a is missing"),
        ({"lokr_w1": (2, 2), "lokr_w2_a": (2, 2)}, "lokr_w2_b is missing"),
        ({"hada_w1_a": (2, 2), "hada_w1_b": (2, 2), "hada_w2_a": (2, 2)}, "hada_w2_b is missing"),
        ({"up": (2, 2)}, "down is missing"),
        ({"down": (2, 2), "up": (2, 2), "lokr_w1": (2, 2)}, "lokr_w1 is one too many"),
        ({"lokr_w1": (2, 2), "lokr_w2": (2, 2), "lokr_t2": (2, 2)}, "lokr_t2 is one too many"),
        ({"lokr_w1": (2, 2), "lokr_w2": (2, 2), "lokr_w2_a": (2, 2)}, "lokr_w2_a is one too many"),
        ({"lokr_w1": (2, 2), "lokr_w2_a": (2, 3), "lokr_w2_b": (2, 2)}, "sizes do not fit each other: .*w2_a .2, 3."),
        ({"lokr_w1": (2,), "lokr_w2": (2, 2)}, "sizes do not fit each other"),
        ({"hada_w1_a": (2, 1), "hada_w1_b": (1, 2), "hada_w2_a": (3, 1), "hada_w2_b": (1, 2)}, "sizes do not fit"),
        ({"hada_w1_a": (2, 1), "hada_w1_b": (1, 2), "hada_w2_a": (1, 1), "hada_w2_b": (1, 2)}, "sizes do not fit"),
        ({"down": (2, 2), "up": (2, 2), "alpha": (2,)}, "alpha is no number but"),
        ({"alpha": (1,)}, "it has an alpha alone"),
        ({"lokr_w1": (2, 2), "lokr_w2_a": (2, 0), "lokr_w2_b": (0, 2)}, "its rank is 0"),
    ],
)
def test_what_is_no_whole_adapter_is_refused_before_it_is_computed(parts, told):
    with pytest.raises(ValueError, match=told):
        change_size({name: torch.ones(shape) for name, shape in parts.items()})
