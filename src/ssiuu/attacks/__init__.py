"""Attacks on any checkpoint: train it further, coarsen it, or ask it in another way."""

ATTACKS = {
    "harmful": "retrain on a fraction p of the forget set, score the rest (the paper's attack)",
    "benign": "retrain on unrelated instructions (the paper's attack)",
    "filler": "retrain on unrelated plain text",
    "quantised": "round every linear map to int8, int4 or nf4",
    "prompts": "ask in other words, behind a sentence that presses for the truth, with a begun answer",
    "few-shot": "put k answered questions in front, taken from the facts to keep",
    "sampled": "sample k answers; a fact leaks when one of them holds the answer (leak@k)",
    "membership": "tell forgotten from held-out facts: loss, Min-K, Min-K++ (AUC)",
}
