"""A further look inside: causal test, linear probe, depth score, a second attribution, stability."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property

from torch import Tensor

from ssiuu.attribution.integrated import integrated_extremes
from ssiuu.attribution.neuron import extremes
from ssiuu.diagnosis.causal import BUDGET, causal_test, mean_outputs, neuron_influence
from ssiuu.diagnosis.depth import Drops, answer_states, depth_score, drops
from ssiuu.diagnosis.influence import Baseline, influence
from ssiuu.diagnosis.probe import linear_probe
from ssiuu.diagnosis.stability import stability
from ssiuu.experiment.session import Session
from ssiuu.models.load import restore, snapshot
from ssiuu.models.shards import full
from ssiuu.models.sites import Site
from ssiuu.records.schema import BothAttributions, Depth, Evidence, LinearProbe, Reading, Stability

OTHERS = 128  # retain facts that means and probes are fitted on, at most
FEW = 8  # facts attributed by integrated gradients too, at most: these cost some 100 times more


class Inside:
    """Gathers the evidence of one session's models; what is the same for all of them is kept."""

    def __init__(self, session: Session, sites: Sequence[Site]) -> None:
        self.session, self.sites = session, sites
        self.forget = session.split.forget
        self.others = session.split.retain[:OTHERS]
        self.examples = session.examples(self.forget)
        self.few = self.examples[:FEW]

    def look(self, baseline: Baseline, seed: int = 0, budget: int = BUDGET) -> Evidence:
        """Return the evidence for the weights the session's model holds; it holds them afterwards.

        Args:
            baseline: The original model's attributions of the forget facts.
            seed: Of the random neurons.
            budget: Readings the causal test may take; 0 leaves it out.
        """
        begin = time.perf_counter()
        session, model = self.session, self.session.model
        unlearned = snapshot(model)
        probe = self._probe()
        after = self._few_by_both()
        states = answer_states(model, self.examples, session.pad) if session.never_learned else None
        original, probe_before, reference, integrated = self._original
        session.original.restore()
        before = self._site_weights()
        depth: Depth | None = None
        if states is not None and reference is not None:
            found = drops(model, self.examples, states, session.pad)
            depth = depth_score(found, reference, {f.id: f.entity or f.id for f in self.forget})
        restore(model, unlearned)
        causal = None
        if budget:
            batches = extremes(model, self.sites, self.examples, session.pad)
            others = session.examples(self.others)
            causal = causal_test(
                model,
                session.prompt,
                self.forget,
                self.sites,
                neuron_influence(baseline, batches),
                original,
                before,
                mean_outputs(model, self.sites, others, session.pad) if others else None,
                seed,
                budget,
                session.score.read,
            )
        return Evidence(
            causal=causal,
            probe_before=probe_before,
            probe_after=probe,
            depth=depth,
            attributions=BothAttributions(
                gradient=influence(baseline, after[0], self.sites, self.forget)["logprob"],
                integrated=influence(integrated, after[1], self.sites, self.forget)["logprob"],
            ),
            seconds=round(time.perf_counter() - begin, 2),
        )

    def stability(
        self,
        baseline: Baseline,
        unlearned: dict[str, Tensor],
        attack: str,
        pool: Sequence[str] | None = None,
        note: str = "",
    ) -> Stability:
        """Compare the attributions of three models; the session's model is the attacked one.

        It holds the unlearned weights afterwards.

        Args:
            baseline: The original model's attributions of the forget facts.
            unlearned: Weights of the unlearned model.
            attack: What made the attacked model.
            pool: Facts to attribute; all forget facts without it.
            note: Why there is nothing to compare, if that is so.
        """
        begin = time.perf_counter()
        session, wanted = self.session, set(pool or baseline.ids)
        if note:
            return Stability(target="logprob", attack=attack, facts=0, note=note)
        given = [example for example in self.examples if example.id in wanted]
        attacked = Baseline.of(extremes(session.model, self.sites, given, session.pad))
        restore(session.model, unlearned)
        between = Baseline.of(extremes(session.model, self.sites, given, session.pad))
        found = stability(baseline, between, attacked, self.sites, attack)
        return found.model_copy(update={"seconds": round(time.perf_counter() - begin, 2)})

    @cached_property
    def _original(self) -> tuple[dict[str, Reading], LinearProbe | None, Drops | None, Baseline]:
        """Readings and probe of the original; what the never-learned model's states take from it;
        its integrated gradients.
        """
        session, model = self.session, self.session.model
        states = None
        if session.never_learned is not None:
            session.put(session.never_learned)
            states = answer_states(model, self.examples, session.pad)
        session.original.restore()
        return (
            session.score.read(model, session.prompt, self.forget),
            self._probe(),
            None if states is None else drops(model, self.examples, states, session.pad),
            self._few_by_both()[1],
        )

    def _few_by_both(self) -> tuple[Baseline, Baseline]:
        """Attribute a few facts by gradient x activation and by integrated gradients."""
        given = (self.session.model, self.sites, self.few, self.session.pad)
        return Baseline.of(extremes(*given)), Baseline.of(integrated_extremes(*given))

    def _probe(self) -> LinearProbe | None:
        session = self.session
        return linear_probe(session.model, session.prompt, self.forget, self.others, session.pad)

    def _site_weights(self) -> dict[str, Tensor]:
        paths = {site.path for site in self.sites}
        return {
            name: full(parameter).clone()
            for name, parameter in self.session.model.named_parameters()
            if name.rpartition(".")[0] in paths
        }
