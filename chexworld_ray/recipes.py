"""Named starting points. Each is a function; a run is a recipe plus the settings named on the command line."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from chexworld_ray.config import ModelSettings, ObjectiveKind, OptimSettings, RunSettings, Runtime, Science
from chexworld_ray.errors import UserError


def demo() -> RunSettings:
    """A few hundred phantoms on a laptop: under a minute of training on two CPU cores.

    Shows that the whole chain works; its encoder is not meant to be used. The target is quick, for in so few steps one
    as slow as that of `small` would mostly stay what it was at random.
    """
    return RunSettings(
        science=Science(
            model=ModelSettings(
                image_size=96, patch_size=12, width=96, depth=4, heads=3, predictor_width=96, predictor_depth=2
            ),
            optim=OptimSettings(lr=5e-4, warmup=0.1, betas=(0.9, 0.95), ema=(0.97, 1.0)),
            global_batch=16,
            epochs=16.0,
        ),
        # one thread: a second one that has to wait for a busy core stalls every small operation
        runtime=Runtime(torch_threads=1, checkpoint_images=2_000, log_batches=20, keep=10),
    )


def small() -> RunSettings:
    """A small hospital's start: ViT 192 wide and 6 deep on 128 px; 1,379 images take under an hour of one core.

    Small batches, a low learning rate and a slow target: of eight runs the one whose features did not collapse
    (EXPERIMENTS.md). Scores on 1,379 real radiographs are in the README.
    """
    return RunSettings(
        science=Science(
            model=ModelSettings(
                image_size=128, patch_size=16, width=192, depth=6, heads=3, predictor_width=192, predictor_depth=4
            ),
            optim=OptimSettings(lr=3e-4, warmup=0.1, betas=(0.9, 0.95), ema=(0.996, 1.0)),
            global_batch=16,
            epochs=30.0,
        ),
        runtime=Runtime(torch_threads=1, checkpoint_images=10_000, log_batches=40),
    )


def chexworld_base() -> RunSettings:
    """The paper's recipe: ViT-B/16 at 224 px, 300 epochs of half a million frontal images, batch 2048.

    The authors took 16 h on 8 RTX 4090 (Yue et al., CVPR 2025); needs GPUs.
    """
    return RunSettings(science=Science(), runtime=Runtime(workers="8", gpu=True, micro_batch=128, decode_threads=8))


RECIPES: dict[str, Callable[[], RunSettings]] = {
    "demo": demo,
    "small": small,
    "chexworld_base": chexworld_base,
}


ABLATIONS: tuple[ObjectiveKind, ...] = (
    *("chexworld", "local", "local_global", "local_domain", "naive_sum", "no_action", "no_delta"),
)
"""Rows of the paper's Table 3; the first is what the others are compared with."""


def variants(names: Sequence[str], base: RunSettings) -> dict[str, RunSettings]:
    """What a sweep trains, by name: `ablations` (rows of Table 3 at the size of `base`), kinds of objective, recipes.

    Raises:
        UserError: a name is none of these, or stands there twice.
    """
    found: dict[str, RunSettings] = {}
    for name in [one for given in names for one in (ABLATIONS if given == "ablations" else (given,))]:
        if name in found:
            raise UserError(f"sweep: {name} is named twice")
        if name in ABLATIONS:
            science = replace(base.science, objective=replace(base.science.objective, kind=name))
            found[name] = RunSettings(science=science, runtime=base.runtime)
        elif name in RECIPES:
            found[name] = RunSettings(science=RECIPES[name]().science, runtime=base.runtime)
        else:
            raise UserError(f"sweep {name}: neither ablations, nor one of {', '.join((*ABLATIONS, *RECIPES))}")
    return found


def by_name(name: str) -> RunSettings:
    """The recipe called `name`.

    Raises:
        UserError: there is no such recipe.
    """
    if name not in RECIPES:
        raise UserError(f"--recipe {name}: no such recipe; there are {', '.join(RECIPES)}")
    return RECIPES[name]()
