"""What several processes are tried on: methods and their forms, by name, with what each is run under."""

from __future__ import annotations

from typing import Any

from nets.test_golden_steps import PROJECTED, RMU, SPECS
from ssiuu.methods import make

Case = dict[str, Any]

# Where the rounding of a gradient of 0 stands, Adam makes a step of it: a divergence has no slope where
# training begins. By plain descent these agree like all others.
FLAT = {"optimiser": "sgd"}
PENALTY = {"name": "ssiuu", "lambda": 2.0}

FEW: dict[str, Case] = {
    "ssiuu": {"spec": PENALTY},
    "ssiuu, micro-batches, tied, checkpointed": {
        "spec": PENALTY,
        "micro": 1,
        "tied": True,
        "checkpointing": True,
    },
    "ssiuu on neurons, adapters": {
        "spec": {"name": "ssiuu-neuron-growth", "lambda": 2.0},
        "lora": True,
    },
    "ssiuu, a random half of the neurons": {"spec": {"name": "ssiuu-random-neuron", "lambda": 2.0}},
    "ssiuu, rho": {"spec": "ssiuu-rho0.3"},
    "gate": {"spec": "ssiuu-gate"},
    "gate beside another gradient, adapters": {"spec": "undial+gate", "micro": 1, "lora": True},
    "projection, both sides": {"spec": {"name": "gd+projection+outputs", **PROJECTED}},
    "projection, adapters": {"spec": {"name": "gd+projection+outputs", **PROJECTED}, "lora": True},
    "npo+kl+texts+others": {"spec": "npo+kl+texts+others", "settings": FLAT, "micro": 1},
    "dpo": {"spec": "dpo"},
    "rmu": {"spec": RMU, "micro": 1},
    "klue": {"spec": "klue"},
    "sam, tied": {"spec": "npo-sam", "tied": True},
    "mask": {"spec": "masked", "micro": 2},
    "rosu": {"spec": "npo+rosu(0.05)", "lora": True},
    "gu": {"spec": "gd+gu(2)"},
    "nullspace": {"spec": "dpo+nullspace", "lora": True},
    "undo": {"spec": {"name": "gd+undo", "distil_steps": 3}},
    "clipped, momentum": {"spec": "gd", "settings": {"optimiser": "momentum", "max_grad_norm": 0.5}},
    "normsgd": {"spec": "gd", "settings": {"optimiser": "normsgd"}},
    "fp32": {"spec": PENALTY, "dtype": "float32"},
    "cir": {"spec": {"name": "cir", "layers": [0, 1], "loss_limit": 2}},
    "exact": {"spec": "ssiuu-exact"},
    "effective": {"spec": PENALTY, "lora": True, "attribution": "effective"},
    "adafactor": {"spec": "gd", "settings": {"optimiser": "adafactor"}},
}
REFUSED = {"cir", "exact", "effective", "adafactor"}


def _flat(name: str) -> bool:
    return any(word in name for word in ("kl", "texts", "others", "jensun", "js"))


FORMS: dict[str, Case] = {
    "whole": {},
    "micro-batches": {"micro": 1},
    "adapters": {"lora": True},
    "tied": {"tied": True},
    # Fewer rows than there are in all: the sign of what is A - A of the same rows would be of rounding.
    "recomputed, accumulated": {"checkpointing": True, "settings": {"batch_size": 2, "accumulate": 2}},
}


def _every() -> dict[str, Case]:
    """Return every method in every form."""
    found: dict[str, Case] = {}
    for name, spec in SPECS.items():
        for form, way in FORMS.items():
            if form == "adapters" and not getattr(make(spec).objective, "adapts", True):
                continue  # it changes the weights themselves
            settings = way.get("settings", {}) | (FLAT if _flat(name) else {})
            found[f"{name}, {form}"] = {"spec": spec, **way, "settings": settings}
    return found


EVERY: dict[str, Case] = FEW | _every()
