"""The recipe of an experiment: every setting, its default, its help, and where its value came from."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, ValidationError, create_model, model_validator
from pydantic_core import PydanticCustomError

from ssiuu.attacks import attack_section, attacks_of, known_settings, strong_defaults
from ssiuu.attacks.base import MOST, AttackConfig
from ssiuu.benchmarks import BENCHMARKS
from ssiuu.benchmarks.base import Basis, Benchmark
from ssiuu.config import LONGEST, Section, flatten, nest, read_yaml
from ssiuu.data.columns import check_columns
from ssiuu.errors import ConfigError, first_ten, show, unknown
from ssiuu.evaluation import utility
from ssiuu.experiment.tuning import tried
from ssiuu.methods import Method, make
from ssiuu.methods.base import Optimiser
from ssiuu.models import nf4
from ssiuu.models.place import Placement
from ssiuu.models.weights import SHARD
from ssiuu.records.sharing import Way
from ssiuu.shipped import recipe_file
from ssiuu.training.optimiser import RATES, Schedule


class LoraConfig(Section):
    """Adapters in place of the weights themselves; off where rank is null."""

    rank: int | None = Field(default=None, ge=1, description="of A and B; null: no adapters")
    alpha: float = Field(default=32.0, gt=0, description="the adapter counts alpha / rank times")
    targets: list[str] = Field(default=[], description="names of linear maps; none given: all")
    attribution: Literal["adapter", "effective"] = Field(
        default="adapter", description="features of Ssiuu: entries of A and B, or of W + s B A"
    )
    base: Literal["bf16", "nf4"] | None = Field(
        default=None,
        description="what fixed weights are held in while adapters are trained; null: as dtype says",
    )
    merge: bool = Field(
        default=True, description="ssiuu unlearn: save merged weights, or the adapter alone"
    )


TAGGED: Final = "a tag tells them apart, as in {name: gd, learning_rate: 1e-4, tag: slow}."
SIZE, RATE = 135e6, 1e-4  # AdamW's learning rate that suits a model of that size


def rate_of(parameters: int) -> float:
    """Return a learning rate for a model of so many parameters: smaller models bear larger ones."""
    return RATE * math.sqrt(SIZE / parameters)


class ExamineConfig(Section):
    """The examination that the verdict rests on."""

    steps: list[int] = Field(
        default=[24], description="attack steps at which facts are read; none: no examination"
    )
    learning_rates: list[float] = Field(
        default=[], description="the attackers' sweep; none: 1e-4 at 135 M parameters, by 1/√size"
    )
    batch_size: int = Field(default=8, ge=1, description="rows a step")
    planted: int = Field(default=12, ge=0, description="facts hidden on purpose, to see what is found")
    seeds: list[int] = Field(default=[0], description="a curve for each, in another order")
    unrelated: bool = Field(
        default=False,
        description="an attacker that trains on instructions as well: its places are shown and have no "
        "vote, as on models of known truth they tell nothing",
    )
    thorough: bool = Field(
        default=False,
        description="as long as it takes: more steps, learning rates, seeds and facts hidden on "
        "purpose, where nothing is set, and more ways of hiding them",
    )
    reuse: bool = Field(
        default=True, description="what was found of the same planted facts before is used again"
    )

    def problems(self) -> list[str]:
        """Return what is wrong with the values, a sentence each."""
        found = []
        within = min(self.steps, default=1) >= 1 and max(self.steps, default=1) <= MOST
        if sorted(set(self.steps)) != self.steps or not within:
            wanted = f"must be ascending steps from 1 to {MOST:,}"
            found.append(f"examine.steps: {wanted}, got {show(self.steps)}.")
        if wrong := [rate for rate in self.learning_rates if not 0 < rate <= 1]:
            found.append(f"examine.learning_rates: must lie in (0, 1], got {wrong[0]}.")
        if min(self.seeds, default=-1) < 0 or len(set(self.seeds)) < len(self.seeds):
            wanted = "must be one or more, different and at least 0"
            found.append(f"examine.seeds: {wanted}, got {show(self.seeds)}.")
        return found

    def rates(self, parameters: int) -> list[float]:
        """Return the learning rates for a model of so many parameters."""
        factors = (1, 3) if self.thorough else (1,)
        return self.learning_rates or [float(f"{k * rate_of(parameters):.1e}") for k in factors]

    @property
    def decides(self) -> dict[str, Any]:
        """What decides an examination.

        Older ones always had an unrelated attacker, and none was thorough: those two stand in it only
        where it is otherwise.
        """
        as_ever = {"unrelated": self.unrelated, "thorough": not self.thorough}
        idle = {"reuse", *(name for name, so in as_ever.items() if so)}
        return self.model_dump(mode="json", exclude=idle)

    @property
    def plants(self) -> bool:
        """Whether facts are hidden on purpose and examined."""
        return bool(self.steps and self.planted)


THOROUGH: Final[dict[str, Any]] = {
    "examine.steps": [24, 96],
    "examine.seeds": [0, 1, 2],
    "examine.planted": 24,
}


class StopConfig(Section):
    """What may be spent on plain text. A run ends at the first check that finds more spent, with the
    weights of the last one that did not.

    The other two that end a run have keys of their own, and are read here as well: `stop.forget` is
    `threshold`, and `stop.steps` is `max_steps`.
    """

    kl: float | None = Field(
        default=None, gt=0, description="KL from the original on plain text, nats a token; null: any"
    )
    retain_ratio: float | None = Field(
        default=None,
        ge=1,
        description="loss on plain text over the original's (1.001 in CIR); null: any",
    )

    @property
    def given(self) -> bool:
        """Whether there is a limit."""
        return self.kl is not None or self.retain_ratio is not None


class UnlearnConfig(Section):
    """How unlearning is driven, the same for every method unless it says otherwise."""

    learning_rate: float = Field(default=RATES["adamw"], gt=0, le=1, description="the optimiser's")
    batch_size: int = Field(default=4, ge=1, description="forget rows (and retain rows) a step")
    accumulate: int = Field(
        default=1, ge=1, description="batches a step: their gradients are summed before it is taken"
    )
    micro_batch_size: int | None = Field(
        default=None, ge=1, description="rows in memory at once; null: a batch"
    )
    max_steps: int = Field(default=40, ge=1, description="steps at most")
    check_every: int = Field(default=4, ge=1, description="steps between two readings of the score")
    threshold: float | None = Field(
        default=None, ge=0, le=1, description="stop at or below this forget score; null for chance"
    )
    optimiser: Optimiser = Field(
        default="adamw",
        description="torch's own AdamW, AdamW with moments in 8 bits (adamw8bit), SGD, SGD with "
        "momentum 0.9 and Adafactor, or steps along the "
        "gradient's signs (sign) or along its direction, as long as the rate (normsgd); where no "
        "learning_rate is given, each has its own",
    )
    weight_decay: float = Field(default=0.0, ge=0, description="the optimiser's")
    schedule: Schedule = Field(
        default="constant",
        description="of the learning rate: constant, or falling towards 0 over max_steps, on a line or "
        "a cosine",
    )
    warmup: int = Field(default=0, ge=0, description="steps until the learning rate is reached")
    max_grad_norm: float | None = Field(
        default=None, gt=0, description="the gradient is scaled down to this L2 norm; null: never"
    )
    max_kl: float = Field(
        default=0.1,
        gt=0,
        description="ssiuu unlearn: the divergence from the original model on plain text, and on "
        "instructions, that may be paid, nats a token",
    )
    min_retain: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="ssiuu unlearn: the share of the facts to keep, of those known before, that must "
        "still be known",
    )
    diversify: int = Field(
        default=0,
        ge=0,
        le=5,
        description="other forms in which every fact to forget is asked beside its own while it is "
        "unlearned, sentences of another build made by rules",
    )
    stop: StopConfig = StopConfig()
    lora: LoraConfig = LoraConfig()

    @model_validator(mode="before")
    @classmethod
    def _rated(cls, values: Any) -> Any:
        """Give another optimiser than the default's a rate that suits it, where none is given."""
        if not isinstance(values, dict) or values.get("learning_rate") is not None:
            return values
        rates = [rate for name, rate in RATES.items() if name == values.get("optimiser")]
        return {**values, "learning_rate": rates[0]} if rates else values


class TuneConfig(Section):
    """Settings tried of every method before the experiment; the best of each is then run."""

    trials: int | None = Field(
        default=None, ge=1, le=1000, description="settings a method; null: no tuning"
    )
    seed: int = Field(default=0, ge=0, description="decides what is tried")
    space: dict[str, dict[str, list[Any]]] = Field(
        default={},
        description="by method or *, then by hyper-parameter: [low, high], or a list of choices",
    )


def _is_spec(value: Any) -> Any:
    """Refuse what is no method in one sentence, where a union has one for each of its types."""
    if isinstance(value, str) or (isinstance(value, dict) and all(isinstance(k, str) for k in value)):
        return value
    raise PydanticCustomError("method", "must be a name, or a mapping with name and hyper-parameters")


Spec = Annotated[str | dict[str, Any], BeforeValidator(_is_spec)]


class Recipe(Basis):
    """A whole experiment. A null is filled in by the benchmark, which has a section under its name."""

    benchmark: str = Field(
        default="worldfacts", description="which facts, and the model that knows them"
    )
    methods: list[Spec] = Field(
        default=["none", "gd", "ssiuu"],
        min_length=1,
        description="names, or mappings with name and hyper-parameters",
    )
    seeds: list[int] = Field(default=[0], min_length=1, description="unlearning seeds")
    protocol: Literal["paper", "strong"] = Field(
        default="paper", description="strong: a swept attacker with every kind of attack"
    )
    unlearn: UnlearnConfig = UnlearnConfig()
    diagnose: bool = Field(default=True, description="look inside: D+, D-, logit lens")
    inside: bool = Field(
        default=False,
        description="look further inside: causal test, linear probe, depth score, integrated "
        "gradients, attributions after an attack",
    )
    examine: ExamineConfig = ExamineConfig()
    attacks: AttackConfig = AttackConfig()
    tune: TuneConfig = TuneConfig()
    force: bool = Field(
        default=False, description="own: go on where the model knows nothing of what is to be forgotten"
    )
    shard_size: float = Field(
        default=SHARD, gt=0, description="gigabytes of weights in a file of a checkpoint, at most"
    )
    track: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] = Field(
        default=[],
        description="who is told losses, scores, the regulariser's share and memory as they come, and "
        "never a fact; their packages are not installed with ssiuu",
    )
    keep_checkpoints: bool = Field(default=False, description="keep every unlearned model's weights")
    locks: Way = Field(
        default="auto",
        description="how processes in one folder keep apart: by the system's locks (flock), by leases, "
        "which are files alone, or by leases where the file system has no locks for all machines",
    )

    @property
    def placement(self) -> Placement:
        """Where the model is put, and in which type: that of the adapters' base, where it is told."""
        lora = self.unlearn.lora
        settings = self.device, "bf16" if lora.base == "bf16" else self.dtype, self.attention
        return Placement.of(*settings, self.gradient_checkpointing, self.offload)

    @property
    def opens(self) -> Benchmark[Any]:
        """The benchmark, as this recipe sets it."""
        kind = BENCHMARKS.get(self.benchmark, "benchmark")
        return kind(getattr(self, self.benchmark, None) or kind.Config())

    def made(self) -> list[Method]:
        """Return the methods.

        Raises:
            ConfigError: A method is unknown, wrongly set, or stands twice.
        """
        problems: list[str] = []
        methods: list[Method] = []
        for index, spec in enumerate(self.methods):
            try:
                methods.append(make(spec, f"methods[{index}]"))
            except ConfigError as error:
                problems += error.problems
        labels = [m.label for m in methods]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        problems += [f"methods: {label!r} stands twice: {TAGGED}" for label in twice]
        if problems:
            raise ConfigError(first_ten(problems))
        return methods

    def tried(self) -> dict[str, list[tuple[dict[str, Any], Method]]]:
        """Return the settings to try of each method, by label; none where nothing is tuned.

        Raises:
            ConfigError: The space does not fit the methods.
        """
        tune = self.tune
        return {} if tune.trials is None else tried(self.methods, tune.space, tune.trials, tune.seed)


SPELLED = {  # both spellings are read
    "unlearn.optimizer": "unlearn.optimiser",
    "unlearn.stop.forget": "unlearn.threshold",
    "unlearn.stop.steps": "unlearn.max_steps",
}
INSTEAD = {"prompt": "prompt_form", "prompt_form": "prompt"}  # one stands in the other's place


def recipe_with(wanted: Container[str], attacks: Container[str]) -> type[Recipe]:
    """Return the recipe with the sections of all benchmarks and attacks of this package, and of those
    wanted.
    """
    names = [name for name in BENCHMARKS if name in BENCHMARKS.built_in or name in wanted]
    if clashing := [name for name in names if name in Recipe.model_fields]:
        raise ConfigError(
            f"benchmark {clashing[0]!r}: a recipe has a key of this name; its package must take "
            "another."
        )
    sections = [(name, BENCHMARKS.get(name).Config) for name in names]
    return _with_sections((*sections, ("attacks", attack_section(attacks))))


@cache
def _with_sections(sections: tuple[tuple[str, type[Section]], ...]) -> type[Recipe]:
    fields: dict[str, Any] = {name: (kind, kind()) for name, kind in sections if kind.model_fields}
    return create_model("Recipe", __base__=Recipe, **fields)


def resolve(path: str | Path | None, sets: list[str]) -> tuple[Recipe, dict[str, str]]:
    """Return the recipe and, by dotted key, where each value came from.

    Args:
        path: A YAML file, the name of a recipe that comes with the package, or None for the defaults.
            Under `scales` it may hold further settings by name, that scale=NAME among `sets` puts in
            place of its own.
        sets: "dotted.key=value" strings; the value is YAML.

    Raises:
        ConfigError: All that is wrong with file and options, together.
    """
    return resolve_parts(read_parts(path, sets))


Part = tuple[str, dict[str, Any]]  # where settings stand, and they by dotted key


def read_parts(path: str | Path | None, sets: list[str]) -> list[Part]:
    """Return what is set where: the file, then its scale, then --set; what comes later wins.

    Raises:
        ConfigError: One of them cannot be read.
    """
    set_values: dict[str, Any] = {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text!r} is not of the form key=value.")
        key = key.strip()
        if not key.isprintable():  # it would break the lines of every message
            raise ConfigError(f"--set {show(text)}: the key has characters that none has.")
        read = value if _is_text(key, value) else read_yaml(value, f"--set {key}")
        set_values |= flatten({key: read})
    scale = set_values.pop("scale", None)
    parts = [("--set", set_values)]
    if path is not None:
        file, called = recipe_file(path)
        written = _read(file, called)
        scales = written.pop("scales", {})
        if scale is not None:
            parts.insert(0, (f"{called}, scale {scale}", flatten(_scaled(scales, scale, called))))
        parts.insert(0, (called, flatten(written)))
    elif scale is not None:
        raise ConfigError(f"--set scale={scale}: scales stand in a recipe, and none is given.")
    return [(source, _spelled(part, source)) for source, part in parts]


def resolve_parts(parts: list[Part], here: bool = True) -> tuple[Recipe, dict[str, str]]:
    """Return the recipe of some parts, as `resolve` does.

    Args:
        parts: What is set where.
        here: Whether this machine must have the device that is asked for.

    Raises:
        ConfigError: All that is wrong with them, together.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for source, part in parts:
        for key, value in part.items():
            values[key], sources[key] = value, source
    if isinstance(values.get("benchmark"), list):
        raise ConfigError(
            f"{sources['benchmark']}: benchmark: a list is several runs, which only ssiuu run and "
            "ssiuu check take; name one."
        )
    _require_finite(values, sources)
    name = str(values.get("benchmark", "worldfacts"))
    benchmark = BENCHMARKS.get(name, f"{sources.get('benchmark', 'recipe')}: benchmark")
    protocol = str(values.get("protocol", "paper"))
    decided = {
        "examine.thorough": THOROUGH if values.get("examine.thorough") is True else {},
        f"protocol {protocol}": strong_defaults() if protocol == "strong" else {},
        f"benchmark {name}": benchmark.defaults,
    }
    # Only where nobody has said anything, and null says nothing; of these the first wins.
    for what, defaults in decided.items():
        for key, value in defaults.items():
            other = INSTEAD.get(key)
            if key == "unlearn.learning_rate" and not str(
                values.get("unlearn.optimiser", "adamw")
            ).startswith("adamw"):
                continue  # a benchmark's rate is AdamW's
            if values.get(key) is None and (other is None or values.get(other) is None):
                values[key], sources[key] = value, what
    nested = nest(values)
    attacks = nested.get("attacks", {})
    kind = recipe_with([name, *nested], attacks if isinstance(attacks, dict) else ())
    try:
        recipe = kind.model_validate(nested)
    except ValidationError as error:
        said = first_ten(error.errors(), lambda problem: _sentence(problem, sources, kind))
        raise ConfigError(said) from error
    _check_idle(benchmark, sources)
    for key in flatten(recipe.model_dump()):
        sources.setdefault(key, "default")
    _check(recipe, here)
    return recipe, sources


def _spelled(part: dict[str, Any], source: str) -> dict[str, Any]:
    """Return settings with every key as the recipe spells it.

    Raises:
        ConfigError: One is given in both spellings.
    """
    for other, key in SPELLED.items():
        if other in part and key in part:
            raise ConfigError(f"{source}: {other} and {key} are one setting: leave one of them out.")
    return {SPELLED.get(key, key): value for key, value in part.items()}


def _is_text(key: str, value: str) -> bool:
    """Whether a value of --set is text as it stands: "Q: {question}" would be a mapping in YAML."""
    return key in ("prompt_form", "prompt_system") and value[:1] not in "\"'" and value != "null"


def _require_finite(values: dict[str, Any], sources: dict[str, str]) -> None:
    problems = [
        f"{sources[key]}: {key}: must be a finite number, got {number}."
        for key, value in values.items()
        for number in _numbers(value)
        if not math.isfinite(number)
    ]
    if problems:
        raise ConfigError(first_ten(problems))


def _numbers(value: Any) -> Iterator[float]:
    """Yield every number that a value is or holds."""
    if isinstance(value, float):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)


def _scaled(scales: Any, scale: Any, called: str) -> dict[str, Any]:
    """Return what one of a recipe's scales sets."""
    if not isinstance(scales, dict) or not isinstance(scales.get(scale), dict):
        names = list(scales) if isinstance(scales, dict) else []
        raise ConfigError(unknown("scale", str(scale), names, f"{called}: scales"))
    return dict(scales[scale])


def _check_idle(benchmark: type[Benchmark[Any]], sources: dict[str, str]) -> None:
    """Refuse sizes that a benchmark does not take, where they are given for it.

    In a recipe of another benchmark than the one that is asked for they are only said to be idle.
    """
    problems = []
    for key in sorted({"split.forget", "split.retain", "split.heldout"} & {*sources}):
        if key.removeprefix("split.") in benchmark.sizes:
            continue
        idle = f"no effect with benchmark {benchmark.name}"
        if sources[key] in ("--set", sources.get("benchmark")):
            problems.append(f"{sources[key]}: {key}: {idle}, which has sets of its own: leave it out.")
        sources[key] += f" ({idle})"
    if problems:
        raise ConfigError(problems)


def _check(recipe: Recipe, here: bool) -> None:
    recipe.made()
    recipe.tried()
    problems = []
    form = recipe.prompt_form
    if form is not None and form.count("{question}") != 1:
        problems.append(
            f"prompt_form: must hold {{question}} once, where the question goes, got {show(form)}."
        )
    if form is not None and recipe.prompt is not None:
        problems.append(f"prompt_form stands in place of prompt, and prompt is {recipe.prompt}.")
    if len(set(recipe.seeds)) < len(recipe.seeds) or any(abs(seed) >> 63 for seed in recipe.seeds):
        problems.append(
            f"seeds: must be different numbers of 63 bits at most, got {show(recipe.seeds)}."
        )
    problems += recipe.examine.problems()
    problems += recipe.attacks.problems()
    problems += [p for attack in attacks_of(recipe.attacks) for p in attack.problems()]
    problems += recipe.opens.problems(recipe)
    problems += _placed(recipe) if here else []
    try:
        check_columns(recipe.columns or {})
    except ConfigError as error:
        problems += error.problems
    if recipe.evaluate.utility:
        try:
            utility.require()
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    _check_sizes(recipe)


def _placed(recipe: Recipe) -> list[str]:
    """Return why what is asked for cannot be had on this machine, a sentence each."""
    lora = recipe.unlearn.lora
    if lora.base is not None and lora.rank is None:
        return ["unlearn.lora.base: is of adapters, and there are none: set unlearn.lora.rank."]
    if lora.base == "bf16" and recipe.dtype == "nf4":
        return ["unlearn.lora.base: bf16 is in full what dtype holds in nf4: leave one of them out."]
    if lora.base == "nf4" and not nf4.there():
        return [f"unlearn.lora.base: nf4 needs {nf4.REMEDY}, or use bf16."]
    try:
        recipe.placement  # noqa: B018  it is made to be checked
    except ConfigError as error:
        return error.problems
    return []


def check_whole(recipe: Recipe) -> None:
    """Refuse weights in 4 bits for what trains all weights, compares them, or looks into them.

    Raises:
        ConfigError: The recipe asks for them.
    """
    if recipe.dtype == "nf4":
        raise ConfigError(
            "dtype: nf4 is for ssiuu ask and ssiuu unlearn with adapters: attacks, audits, looks "
            "inside and teaching need the weights in full. Use bf16 or fp32."
        )


def _check_sizes(recipe: Recipe) -> None:
    """Refuse attacks that the sizes of the sets leave no facts for."""
    problems: list[str] = []
    split, benchmark, attacks = recipe.split, recipe.opens, attacks_of(recipe.attacks)
    key, entities = benchmark.entities() or ("", 2)
    leave = [f"{k} to {v}" for a in attacks if a.holds() for k, v in a.off().items()]
    if entities < 2 and leave:
        problems.append(
            f"{key}: must be at least 2, as an attack is scored on facts of whose entity the attacker "
            f"holds nothing; with one, set {' and '.join(leave)}."
        )
    if benchmark.sized:
        problems += [p for a in attacks for p in a.too_few(split.forget, split.retain)]
    if problems:
        raise ConfigError(problems)


def _read(file: Path, called: str) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:  # no more of it than is taken, whatever it is
            data = stream.read(LONGEST + 1)
        text = "" if len(data) > LONGEST else data.decode()
    except (OSError, ValueError) as error:
        raise ConfigError(f"recipe {file} cannot be read: {error}") from error
    if len(data) > LONGEST:
        raise ConfigError(f"recipe {file} is longer than {LONGEST >> 10} KiB, which no recipe is.")
    values = read_yaml(text, called)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"recipe {file} must be a mapping of settings.")
    return values


# What a value of the wrong shape should be.
_SHAPES: Final = {
    "list_type": "a list",
    "dict_type": "a section of settings, as in {key: value}",
    "model_type": "a section of settings, as in {key: value}",
}


def _sentence(problem: Any, sources: dict[str, str], recipe: type[Recipe]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    # Its own, that of its section, or of what stands in it.
    related = (
        s for k, s in sources.items() if f"{key}.".startswith(f"{k}.") or k.startswith(f"{key}.")
    )
    where = next(related, "recipe")
    if problem["type"] == "extra_forbidden":
        section: Any = recipe
        for part in problem["loc"][:-1]:
            section = section.model_fields[part].annotation
        others = known_settings() if problem["loc"][:-1] == ("attacks",) else ()
        known = {*section.model_fields, *others}
        deeper = _dotted(recipe) if len(problem["loc"]) == 1 else ()
        return unknown("key", str(problem["loc"][-1]), known, f"{where}: {key}", deeper)
    value = problem["input"]
    if wanted := _SHAPES.get(problem["type"]):
        wanted += f", as in [{value}]" if wanted == "a list" and isinstance(value, str | int) else ""
        return f"{where}: {key}: must be {wanted}, got {show(value)}."
    quoted = problem["type"] == "string_type" and isinstance(value, int | float)
    hint = f" Text is written in quotes: '{value}'." if quoted else ""
    return f"{where}: {key}: {problem['msg']}, got {show(value)}.{hint}"


def _dotted(section: type[Any], prefix: str = "") -> Iterator[str]:
    """Yield the keys of what stands in sections, in the order of a recipe: unlearn.learning_rate."""
    for name, field in section.model_fields.items():
        inner: Any = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            yield from _dotted(inner, f"{prefix}{name}.")
        elif prefix:
            yield f"{prefix}{name}"
