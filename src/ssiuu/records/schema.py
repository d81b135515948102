"""What a run writes, as a versioned schema. Imports no torch, so that a report needs none.

A run folder holds

    run.json                         RunHeader: what was asked, of what, with what, and the facts
    run-<digest>.json                headers of before a setting was changed
    original-<key>.json              Evaluation of the model before unlearning
    planted-<key>.json               Examination of the original with facts hidden on purpose
    cells/<label>-s<seed>/           one folder for each method and seed
        unlearn-<key>.json           Unlearning
        evaluate-<key>.json          Evaluation
        diagnose-<key>.json          Diagnosis
        attack-<name>-....-<key>.json    Attack
        examine-<key>.json           Examination
        stability-<key>.json         Stability
    tune/<label>/trial-<key>.json    Trial

A key is the digest of everything that decides the result (ssiuu.experiment.cells); a name holds its
first 8 digits, the record all of it. A file is written once: under changed settings another one is
written beside it. `RunHeader.stages` says which belong to the run as it is now, and
`ssiuu.records.files.load_run` assembles those into a `RunRecord`. A value that was not measured is
None ("not scored"), never 0.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, model_validator

SCHEMA: Final = "ssiuu.record/2"
OLDER: Final = "ssiuu.record/1"  # without `score` and `plugins`; read as if they had been written
TEACHING: Final = "ssiuu.teaching/1"
KNOWLEDGE: Final = "ssiuu.knowledge/1"

Verdict = Literal["erased", "hidden", "not removed", "undecided"]
Target = Literal["probability", "logprob"]
Scored = Literal["written", "ranking", "free", "values"]
Space = Literal["full", "lora-qv", "lora-all"]
Ablation = Literal["zero", "mean", "restore"]
Side = Literal["minus", "plus"]
Attribution = Literal["gradient", "integrated"]
KnowledgeState = Literal["known", "unsure", "unknown", "cannot be scored"]
Source = Literal["options", "same question", "numbers nearby", "same kind"]


class Record(BaseModel):
    """Base of every record: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ProbeText(Record):
    """A question that is only asked, never trained on; `options` begins with the answer."""

    question: str
    answer: str
    options: list[str] = []


class FactText(Record):
    """A fact as it was asked in this run; `options` begins with the answer.

    `multi_hop`: questions that need this fact and another one, `same_answer`: questions about other
    things that have the same answer (a model that forgot the fact alone still knows these).
    `perturbed`: wrong answers of the same form, `paraphrased_answer`: the right one in other words
    (TOFU). A fact with perturbed answers is scored by ROUGE-L as well. `scored` false: only trained on.
    """

    id: str
    question: str
    answer: str
    paraphrases: list[str] = []
    options: list[str] = []
    entity: str | None = None
    relation: str | None = None
    paraphrased_answer: str | None = None
    perturbed: list[str] = []
    multi_hop: list[ProbeText] = []
    same_answer: list[ProbeText] = []
    scored: bool = True


class Split(Record):
    """Which facts are forgotten, retained and held out, and how they were screened.

    `others`: further sets that are only scored, by name. `unknown`: facts that were to be forgotten and
    that the model did not know before; they are trained on with the others and count in no score.
    """

    seed: int
    forget: list[FactText]
    retain: list[FactText]
    heldout: list[FactText]
    others: dict[str, list[FactText]] = {}
    unknown: list[FactText] = []
    asked: int
    known: int

    @property
    def unlearned(self) -> list[FactText]:
        """The rows that unlearning trains on: those to forget, scored or not."""
        return [*self.forget, *self.unknown]


class Knowledge(Record):
    """What a model knows of one fact, and why that is said (`ssiuu.evaluation.knowledge`).

    `says`, `says_otherwise`: its greedy answers when asked in the form of training and in another one;
    `holds`, `holds_otherwise`: do they hold the right answer; `elsewhere`: share of other questions, of
    another answer, to which it says this one too. `rank` of `among` answers by log p a token, the right
    one included, from `source`; `margin`: log p a token of the right answer less that of the best
    alternative, nats, `mean_margin`: less their mean; `paraphrases`: the margin in each paraphrase;
    `gain`: the margin less its mean when other questions are asked. `logprob`: nats, summed over
    `tokens`.
    """

    state: KnowledgeState
    why: str
    says: str | None = None
    holds: bool | None = None
    says_otherwise: str | None = None
    holds_otherwise: bool | None = None
    elsewhere: float | None = None
    rank: int | None = None
    among: int | None = None
    source: Source | None = None
    margin: float | None = None
    mean_margin: float | None = None
    paraphrases: list[float] = []
    gain: float | None = None
    logprob: float | None = None
    tokens: int | None = None


class ModelInfo(Record):
    """The model before unlearning. `note` says what a reader must know (a dequantised copy, say).

    `dtype`: of the weights as they were given, as torch names it; empty where not recorded. The type
    that they are worked on in stands in the header's `machine`; where it does not, float32.
    """

    name: str
    source: str
    fingerprint: str
    parameters: int
    layers: int
    note: str = ""
    dtype: str = ""


class ModelKnowledge(Record):
    """What a model knows of a set of facts; `form` names how they were asked and `asked` says
    it in words; `knowledge` is by fact id.
    """

    schema_version: Literal["ssiuu.knowledge/1"] = KNOWLEDGE
    model: ModelInfo
    form: str
    asked: str
    facts: list[FactText]
    knowledge: dict[str, Knowledge]
    seconds: float
    notes: list[str] = []
    redacted: str = ""


class Teaching(Record):
    """How facts were taught to a model. `absent`: ids of those it never saw (a never-learned twin).

    `learned`: whether the model knows every fact that it was shown; `kept`: rows mixed in, from where.
    `form`: that they were asked in, `asked`: in words.
    """

    schema_version: Literal["ssiuu.teaching/1"] = TEACHING
    model: ModelInfo
    form: str
    asked: str = ""
    facts: list[FactText]
    absent: list[str]
    kept: int
    learned: bool
    knowledge: dict[str, Knowledge]
    epochs: int
    learning_rate: float
    seed: int
    seconds: float
    notes: list[str] = []
    redacted: str = ""


class MethodInfo(Record):
    """A method as it was run. `origin` says whose it is: "paper", "literature", "ours", "control".

    `parts`: the objective, retain terms and transforms it is made of; `plugins`: the package and
    version of those that another package brought.
    """

    label: str
    name: str
    origin: Literal["paper", "literature", "ours", "control", "given"]
    description: str
    hyperparameters: dict[str, Any] = {}
    parts: list[str] = []
    plugins: dict[str, str] = {}


class FactScore(Record):
    """How one model answers one fact.

    `correct` and `paraphrases`: is the answer ranked first among the options, for the base question
    and for each paraphrase; so too `multi_hop` and `same_answer`, where a probe counts only if the
    original model got it right (no fact is screened for its probes). `logprob`:
    log p(answer | question), nats, summed over `tokens` tokens. `free_text`: the greedy answer;
    `free_correct`: does it hold the answer; `rouge`: its ROUGE-L recall, of texts (score
    `texts`) F1. `other_form`, `other_text`, `other_free`: the same of the base question in another form
    than facts are learned in (`RunHeader.other_prompt`): ranked first, the greedy answer, does it hold
    the answer. TOFU's scores, defined in ssiuu.statistics.tofu: `probability` a token, or over the
    answers given, `reworded_probability` of the answer in other words (of the answer itself where there
    is none), `wrong_probability` the mean over the wrong ones, `truth_ratio` and
    `truth_ratio_geometric`, all of answers with their end token; `extraction_strength` and
    `exact_memorisation` without it. `fluency`: the probability that the written answer is no gibberish,
    where a classifier was named.
    """

    correct: bool | None
    paraphrases: list[bool | None] = []
    multi_hop: list[bool | None] = []
    same_answer: list[bool | None] = []
    logprob: float
    tokens: int
    free_text: str | None = None
    free_correct: bool | None = None
    other_form: bool | None = None
    other_text: str | None = None
    other_free: bool | None = None
    probability: float | None = None
    reworded_probability: float | None = None
    wrong_probability: float | None = None
    rouge: float | None = None
    truth_ratio: float | None = None
    truth_ratio_geometric: float | None = None
    extraction_strength: float | None = None
    exact_memorisation: float | None = None
    fluency: float | None = None


class Stage(Record):
    """Base of what a stage of a run writes; `key` is the digest of all that decides its result."""

    key: str = ""


class TaskScore(Record):
    """Accuracy on a public task, and the number of items it is over."""

    accuracy: float
    items: int


class Divergence(Record):
    """How far a model is from the original on text that asks for no fact of the run.

    `plain`: KL(original ‖ this model) on plain texts, mean over `tokens` predicted tokens of `rows`
    texts, nats; `instructions`: the same over the answers to `instruction_rows` instructions; None
    where none fit the model. Standard errors are over rows. `perplexity`: of this model on the plain
    texts; `perplexity_instructions`: on those answers. `text_version`: of the texts; numbers on other
    texts do not compare. `counts`: the original predicts plain text better than a uniform guess over
    its words; a model that does not has nothing to lose there.
    """

    plain: float
    plain_se: float
    instructions: float | None
    instructions_se: float | None
    perplexity: float
    perplexity_instructions: float | None = None
    rows: int
    tokens: int
    instruction_rows: int
    text_version: str
    counts: bool = True


class Evaluation(Stage):
    """Scores of one model on the three sets, by fact id; `utility` by public task, where asked for.

    `divergence`: how far the model is from the original beside the facts. `unrelated`: free answers to
    questions about the world that touch none of the run's facts: all of the original, of another model
    those that the original answered rightly.
    """

    forget: dict[str, FactScore]
    retain: dict[str, FactScore]
    heldout: dict[str, FactScore]
    others: dict[str, dict[str, FactScore]] = {}
    utility: dict[str, TaskScore] = {}
    divergence: Divergence | None = None
    unrelated: dict[str, FactScore] = {}
    seconds: float


class StepLog(Record):
    """One optimiser step. Losses are means over the batch, norms are L2 over all parameters.

    `penalty_share`: norm of the regulariser's gradient over the norm of the forget gradient;
    `penalty_parameters`: share of the parameters whose forget gradient it changed by over 1 %.
    `forget_score`: the stop rule's score where it was read at this step; `answered`: the share of
    facts still answered freely, `lost`: what was lost beyond its limits then, where those were read
    too. `text_loss`: divergence from the original on the texts and questions of the second retain term,
    before its weight, nats a token. `kl`, `retain_ratio`: what was spent of a budget on plain text
    (`ssiuu.training.limits`), where there is one and it was read. `told`: what else the parts of the
    method say of the step.
    """

    step: int
    forget_loss: float
    retain_loss: float | None = None
    gradient_norm: float
    penalty_share: float | None = None
    penalty_parameters: float | None = None
    text_loss: float | None = None
    forget_score: float | None = None
    answered: float | None = None
    lost: str | None = None
    kl: float | None = None
    retain_ratio: float | None = None
    told: dict[str, float] = {}


class Attempt(Record):
    """One learning rate that was tried, and what it led to.

    `growing`: the rate grew with every step up to this one (the range test). `forget`: the stop rule's
    score at the end; `answered`: share of the facts to forget that are still answered freely; `kept`:
    share of what was known of the facts to keep that still is; `said`: of those that were answered
    freely, the share that still is; `kl`, `kl_instructions`: divergence from
    the original model on texts and on instructions, nats a token, over a part of them.
    """

    learning_rate: float
    growing: bool = False
    steps: int
    reached: bool
    forget: float | None = None
    answered: float | None = None
    kept: float | None = None
    said: float | None = None
    kl: float | None = None
    kl_instructions: float | None = None
    seconds: float
    note: str = ""


class Attempts(Record):
    """What a search has tried so far: the file that an interrupted one continues from.

    `key`: digest of all that decides the search.
    """

    key: str
    attempts: list[Attempt]


class Outcome(Record):
    """What an unlearning run led to, by the limits it was given.

    "forgotten": the score is at its threshold, next to nothing is answered freely, and neither limit is
    passed; "not forgotten": the first two do not hold; "forgotten at a cost": a limit is passed, which
    `reasons` say. `kept` is over `kept_of` facts that were known before (as a free answer or first
    among their options), `said` over `said_of` that were answered freely; they were `set_aside` (never
    trained on) or trained on. `kl_counts`: the model before predicts plain text better than a uniform
    guess, so that its divergence there says something; `kl_instructions_counts`: the same of answers to
    instructions.
    """

    state: Literal["forgotten", "not forgotten", "forgotten at a cost"]
    reasons: list[str] = []
    forget: float
    threshold: float
    answered: float
    facts: int
    kept: float | None
    kept_of: int
    said: float | None
    said_of: int
    set_aside: bool
    kl: float | None
    kl_instructions: float | None
    kl_counts: bool = True
    kl_instructions_counts: bool = True
    max_kl: float
    min_retain: float


class Unlearning(Stage):
    """One unlearning run: how it went and why it stopped.

    `distance`: how far the weights went, as a share of the norm of all weights before. `before`: the
    stop score before step 1; where it is at the threshold already, there are no steps. `knowledge`:
    what the model knew before, by set and fact id, where it was asked. `prompt`: the form in which the
    facts were asked. `attempts`: the learning rates that were tried, where one was searched; the one
    that came nearest is that of this run. `outcome`: what it led to, where that was judged. `budget`:
    the limits on what may be spent on plain text, by name; where `stopped` is one of them, `kept_step`
    is the last step that was read within it, whose weights these are (0: those of before step 1).
    """

    method: MethodInfo
    seed: int
    stopped: Literal["threshold", "max_steps", "no steps", "budget", "kl", "retain_ratio"]
    kept_step: int | None = None
    budget: dict[str, float] = {}
    stop_score: str
    threshold: float
    steps: list[StepLog]
    distance: float | None = None
    before: float | None = None
    knowledge: dict[str, dict[str, Knowledge]] = {}
    prompt: str = ""
    seconds: float
    peak_memory_mb: float
    peak_device_memory_mb: float | None = None
    attempts: list[Attempt] = []
    outcome: Outcome | None = None
    notes: list[str] = []
    redacted: str = ""

    @property
    def last_score(self) -> float | None:
        """The stop rule's score of these weights where it was read last; None where it never was."""
        if self.kept_step == 0:
            return self.before
        return next((s.forget_score for s in self._kept if s.forget_score is not None), None)

    @property
    def last_kl(self) -> float | None:
        """KL of these weights on plain text where it was read last, nats a token; None: never."""
        return next((s.kl for s in self._kept if s.kl is not None), None)

    @property
    def fits(self) -> bool:
        """Whether something was changed within the budget, or there is none."""
        return self.kept_step != 0

    @property
    def _kept(self) -> list[StepLog]:
        """The steps up to the one whose weights these are, the last first."""
        last = self.kept_step
        return [step for step in self.steps[::-1] if last is None or step.step <= last]


class Band(Record):
    """A bootstrap interval. `corrected` is the estimate less its bias; see `InfluenceBands`."""

    low: float
    corrected: float
    high: float


class InfluenceBands(Record):
    """Bootstrap intervals of an influence variation over facts, drawn by entity.

    Each neuron's average is cut at 0, so what is only noise adds up, and a sum over all neurons is too
    large for few facts. The resamples show the same once more: an interval is 2 estimate - quantile
    (basic bootstrap), around what many more facts would give. It may lie below the printed sum. In a
    simulation of 48 facts such intervals held the truth in 95 % (top 100) and 73 % (all neurons) of the
    cases, plain percentiles in 30 % and none: read an interval over all neurons as a lower bound of
    the doubt.
    """

    confidence: float
    resamples: int
    entities: int
    d_plus_100: Band
    d_minus_100: Band
    d_plus_all: Band
    d_minus_all: Band
    net_plus: Band
    net_minus: Band
    hide_ratio: Band | None


class RelationInfluence(Record):
    """The influence variation averaged over the facts of one relation."""

    facts: int
    d_plus_100: float
    d_minus_100: float
    d_plus_all: float
    d_minus_all: float
    hide_ratio: float | None


class Influence(Record):
    """Influence variation (Eq. 4 and 5) under one attribution target.

    `m` is the grid of the cumulative curves `d_plus[m]`, `d_minus[m]` (sums over the top m neurons,
    each sorted separately). `map_plus`, `map_minus`: mean of the top 100 neurons by module and
    layer. `facts`: per fact id, the sums over all neurons before averaging, (D+, D-).
    `hide_ratio` = D- / (D+ + D-) over all neurons; None when both are 0.

    `net_plus`, `net_minus`: the same sums over all neurons without the cut at 0 (what turned the other
    way counts against); `curve_net_plus`, `curve_net_minus`: their curves on `m`; `facts_net`: per
    fact. `completeness_gap`: what integrated gradients leave unexplained, as a share, the larger of
    before and after; None for gradient x activation.
    """

    attribution: Attribution = "gradient"
    completeness_gap: float | None = None

    target: Target
    neurons: int
    m: list[int]
    d_plus: list[float]
    d_minus: list[float]
    d_plus_100: float
    d_minus_100: float
    d_plus_all: float
    d_minus_all: float
    hide_ratio: float | None
    map_plus: dict[str, list[float]]
    map_minus: dict[str, list[float]]
    facts: dict[str, tuple[float, float]]
    net_plus: float | None = None
    net_minus: float | None = None
    curve_net_plus: list[float] = []
    curve_net_minus: list[float] = []
    facts_net: dict[str, tuple[float, float]] = {}
    relations: dict[str, RelationInfluence] = {}
    bands: InfluenceBands | None = None


class Attributions(Record):
    """One end of the attributions (max or min over tokens) in three models, a mean over facts a neuron.

    Keys of `histogram`: "original", "unlearned", "attacked"; counts of neurons between the edges of the
    record. Keys of the correlations over neurons: "original-unlearned", "original-attacked",
    "unlearned-attacked"; None where one side does not vary. `returned`: by m, the share of the top m
    neurons of D+ (max) or D- (min) that the attack brought back by more than half.
    """

    histogram: dict[str, list[int]]
    pearson: dict[str, float | None]
    spearman: dict[str, float | None]
    returned: dict[int, float]


class ReturnedNeuron(Record):
    """One neuron of the top D-: its mean attribution (min over tokens) in the three models."""

    module: str
    layer: int
    unit: int
    original: float
    unlearned: float
    attacked: float


class Stability(Stage):
    """How attributions moved through unlearning and an attack (the paper's Fig. 6).

    `attack`: whose weights at the end are the attacked model; `facts`: how many, none of which that
    attack trained on. `edges`: of the histograms, which also have one bin below and one above.
    `leading`: the top neurons of D-, largest first. Where the attack diverged, `note` says so and
    there is nothing to compare.
    """

    target: Target
    attack: str
    facts: int
    edges: list[float] = []
    highest: Attributions | None = None
    lowest: Attributions | None = None
    leading: list[ReturnedNeuron] = []
    seconds: float = 0.0
    note: str = ""


class Lens(Record):
    """Logit lens accuracy by layer (0 = embeddings): gold against one distractor, chance 0.5.

    `below_chance`: the layers whose whole 95 % interval, widened for the number of layers, is below
    0.5: the model avoids the answer there (over-unlearning).
    """

    accuracy: list[float]
    facts: int
    below_chance: list[int] = []


class EstimateRecord(Record):
    """A value with its 95 % interval; what the interval is over stands where it is used."""

    value: float
    low: float
    high: float


class Level(Record):
    """Mean log-probability of the answers (nats) and share ranked first; None: not scored."""

    logprob: float
    accuracy: float | None


class CausalPoint(Record):
    """The forget facts with `m` neurons ablated: the top ones, and random ones of the same maps.

    `random_logprob`, `random_accuracy`: mean over the draws, and where another draw would fall.
    `share`: part of the lost log-probability that comes back, top minus random, over entities.
    """

    m: int
    top: Level
    random_logprob: EstimateRecord
    random_accuracy: EstimateRecord | None
    share: EstimateRecord | None


class CausalCurve(Record):
    """One way to ablate, over m; `side`: the neurons with the largest D- ("minus") or D+ ("plus")."""

    side: Side
    mode: Ablation
    points: list[CausalPoint]


class Causal(Record):
    """The causal test. `share`: of zero ablation of the top 100 of D- (`CausalPoint.share`)."""

    facts: int
    draws: int
    original: Level
    unlearned: Level
    curves: list[CausalCurve]
    share: EstimateRecord | None


class LinearProbe(Record):
    """A linear probe by layer (0 = embeddings): can the answer be read from the prompt's last state?

    `accuracy`: right answer before the options. `control`: the same with the labels shuffled
    within each relation. `selectivity`: accuracy less control, interval over entities.
    """

    accuracy: list[float]
    control: list[float]
    selectivity: list[EstimateRecord]
    facts: int


class Depth(Record):
    """Unlearning depth score (UDS): 0 the knowledge is as in the original, 1 as if never learned.

    `reference`, `unlearned`: mean drop of the answer's log-probability a token when that model's
    state is patched into the original, by layer. `facts`: by id; None where the never-learned
    model's states make no difference in any layer.
    """

    score: EstimateRecord | None
    reference: list[float]
    unlearned: list[float]
    facts: dict[str, float | None]


class BothAttributions(Record):
    """The influence variation of log P over the same few facts by two attributions."""

    gradient: Influence
    integrated: Influence


class Evidence(Record):
    """What a further look inside shows; parts that cannot be had here are None."""

    causal: Causal | None
    probe_before: LinearProbe | None
    probe_after: LinearProbe | None
    depth: Depth | None
    attributions: BothAttributions | None = None
    seconds: float


class Diagnosis(Stage):
    """What changed inside, before against after unlearning. `influence`: by gradient x activation."""

    influence: dict[Target, Influence]
    lens_before: Lens | None
    lens_after: Lens | None
    evidence: Evidence | None = None
    seconds: float

    @model_validator(mode="before")
    @classmethod
    def _without_unused(cls, values: Any) -> Any:
        """Read older records too: they hold these two, always without a value."""
        empty = ("integrated", "stability")
        if not isinstance(values, dict):
            return values
        return {k: v for k, v in values.items() if v is not None or k not in empty}


class Reading(Record):
    """One fact during an attack: ranked first or not, and its answer's log-probability (nats).

    `rouge`: ROUGE-L recall (of texts F1) of the greedy answer, where facts are scored by it.
    """

    correct: bool | None
    logprob: float
    rouge: float | None = None


class AttackRead(Record):
    """The probed facts at one point of an attack; `step` is the point's place on the attack's axis.

    Place 0 is the model before the attack. `label` says what the place is where its number does not.
    """

    step: int
    facts: dict[str, Reading]
    label: str = ""


# What the axes of records without `scored` and `axis_label` say and hold.
_OLDER_AXES: Final[dict[str, tuple[str, Scored]]] = {
    "steps": ("attack steps", "written"),
    "bits": ("weights", "written"),
    "k": ("k sampled answers (0: the greedy one)", "free"),
    "shots": ("answered examples in front", "ranking"),
    "prompt": ("prompt", "ranking"),
    "score": ("score", "values"),
}


Attacker = Literal["nobody", "unrelated", "related", "read-out"]


class Place(Record):
    """Where an examination reads: nobody has attacked yet, or after so many steps of an attacker.

    "unrelated": trains on rows that have nothing to do with the facts; "related": on other facts of the
    request, their answers with them. "read-out": nothing is trained; a linear map, fitted on other
    text, reads the model's inner states as the original's.
    """

    name: str
    attacker: Attacker = "nobody"
    learning_rate: float | None = None
    step: int = 0


class Trace(Record):
    """One fact along an examination.

    `contrast`: at every place, what is asked of the right answer (first) and of every alternative: how
    much likelier it is after this question than after the same one about something else, less the mean
    of the other alternatives, in their standard deviations; None where the attacker held the fact.
    `margin`: log p of the right answer less the mean of the alternatives', nats a token, by place.
    `lacks`: what of a lineup could not be had, in words.
    """

    contrast: list[list[float] | None]
    margin: list[float | None]
    lacks: str = ""


class Examination(Stage):
    """What the verdict rests on: facts in lineups, read before, after, and along attacks.

    `hidden`: of planted controls by fact id the way it was hidden. `left`: facts that were to be hidden
    on purpose and could not be, with the reason.
    """

    places: list[Place]
    facts: dict[str, Trace]
    hidden: dict[str, str] = {}
    left: dict[str, str] = {}
    notes: list[str] = []
    seconds: float


class PlaceReading(Record):
    """Some facts of an examination at one place: their places among all, contrasts and margins."""

    place: Place
    facts: list[int]
    contrast: list[list[float] | None]
    margin: list[float | None]


class Unfinished(Stage):
    """What an examination has read so far, by who attacked; `weights`: digest of what is examined."""

    weights: str
    readings: dict[str, list[PlaceReading]]
    notes: list[str]


class AttackCurve(Stage):
    """One attack curve. `trained`: forget facts it trained on; `pool`: those it is scored on.

    `kind`: the attack's name in `ssiuu list attacks`; `name` may say more ("harmful_0.1"). `axis`: what
    its places are, and `axis_label` in words. `scored`: what a reading is by: the run's score, which
    may be of written answers ("written"), the ranking whatever the run's score ("ranking"), whether
    one of some free answers holds the right one ("free"); "values": it has `values` and no curve.
    """

    name: str
    kind: str
    fraction: float | None = None
    learning_rate: float | None
    seed: int
    axis: str = "steps"
    axis_label: str = "attack steps"
    scored: Scored = "written"
    space: Space = "full"
    tokens: int | None = None
    trained: list[str]
    pool: list[str]
    reads: list[AttackRead]
    values: dict[str, float | None] = {}
    seconds: float
    note: str = ""

    @model_validator(mode="before")
    @classmethod
    def _axis_told(cls, values: Any) -> Any:
        """Read older records too, which name the axis alone."""
        if not isinstance(values, dict) or "scored" in values:
            return values
        axis = values.get("axis", "steps")
        label, scored = _OLDER_AXES.get(axis, (axis, "ranking"))
        return {"axis_label": label, "scored": scored, **values}


class Trial(Stage):
    """One setting tried of a method before the experiment: unlearned with it, then scored.

    `values`: what was drawn. `score`: mean probability of an answer token over retain facts that
    were not trained on. Where training diverged, `unlearning` and `score` are None.
    """

    method: MethodInfo
    seed: int
    values: dict[str, Any]
    unlearning: Unlearning | None
    score: float | None
    seconds: float

    @property
    def fits(self) -> bool:
        """Whether it trained to its end and stayed within the budget."""
        return self.unlearning is not None and self.unlearning.fits


class Failure(Stage):
    """Why a cell broke off: its training or a score of it was not finite, in words."""

    reason: str


class Cell(Record):
    """Everything measured for one method and one seed; parts that have not run yet are None.

    `failed`: why it broke off; what was measured before that is there.
    """

    method: MethodInfo
    seed: int
    unlearning: Unlearning | None = None
    evaluation: Evaluation | None = None
    diagnosis: Diagnosis | None = None
    attacks: list[AttackCurve] = []
    stability: Stability | None = None
    examination: Examination | None = None
    failed: Failure | None = None


class BenchmarkInfo(Record):
    """The facts: a versioned data set with its fingerprint (sha256)."""

    name: str
    version: str
    fingerprint: str
    facts: int
    note: str = ""


class RunHeader(Record):
    """The first file of a run: all that decides its results.

    `prompt`: the form in which facts are learned and asked. `other_prompt`: the form in which the
    forget facts are asked as well. `stages`: the records of this run, done or to be done, with their
    keys; by path from the run's folder. `knowledge`: what the model knew before, by set and fact id;
    empty where facts are not asked first (the named benchmarks are screened or taught). `score`: name
    of the score that models are judged by (`ssiuu list scores`). `plugins`: what in this run comes from
    other packages, and their versions; by kind and name ("attack noise": "my-package 1.0"). `redacted`:
    the name of the key whose digests stand in texts' places (`ssiuu.redaction`); empty: texts stand.
    """

    schema_version: Literal["ssiuu.record/2"] = SCHEMA
    kind: Literal["run", "audit"]
    created: str
    command: str
    protocol: str
    config: dict[str, Any]
    sources: dict[str, str]
    versions: dict[str, str]
    machine: dict[str, str]
    model: ModelInfo
    benchmark: BenchmarkInfo
    split: Split
    knowledge: dict[str, dict[str, Knowledge]] = {}
    chance: float | None
    prompt: str = ""
    other_prompt: str = ""
    score: str
    plugins: dict[str, str] = {}
    methods: list[MethodInfo]
    seeds: list[int]
    stages: dict[str, str] = {}
    notes: list[str] = []
    redacted: str = ""

    @model_validator(mode="before")
    @classmethod
    def _named_score(cls, values: Any) -> Any:
        """Read records of version 1, in which the sets of a run said how it was scored."""
        if not isinstance(values, dict) or values.get("schema_version") != OLDER:
            return values
        others = values.get("split", {}).get("others", {})
        score = "sentences" if "real_authors" in others else "rouge" if others else "ranking"
        return {**values, "schema_version": SCHEMA, "score": score}


class RunRecord(Record):
    """A whole run, assembled from its folder.

    `planted`: the examination of the original with facts hidden on purpose.
    """

    header: RunHeader
    original: Evaluation | None
    cells: list[Cell]
    trials: list[Trial] = []
    planted: Examination | None = None
