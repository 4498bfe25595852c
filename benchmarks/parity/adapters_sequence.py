"""DIN: each row has a history of ids of one of its fields, whose embeddings they share."""

from __future__ import annotations

from parity.registry import EMBEDDING_DIM, HIDDEN, HISTORY, TARGET, State, Weights, case

UNITS = [12, 6]
OPTIONS = {
    "dnn_hidden_units": HIDDEN,
    "attention_hidden_units": UNITS,
    "attention_hidden_activations": "Sigmoid",
    "din_target_field": [TARGET],
    "din_sequence_field": [HISTORY],
}
SMALL = {"attention": {"hidden_units": UNITS}}


@case("din", "DIN/src/DIN.py", OPTIONS, SMALL, sequence=True)
def din(w: Weights) -> State:
    embeddings = {name.removeprefix("of."): rows for name, rows in w.embedding("of").items()}
    layer = "embedding_layer.embedding_layers"
    return {
        **embeddings,
        f"{layer}.{HISTORY}.weight": embeddings[f"{layer}.{TARGET}.weight"],
        **w.under("attention.0.mlp.layers", "attention_layers.0.attention_layer.mlp"),
        **w.under("mlp.layers", "dnn.mlp"),
    }


@case(
    "din",
    "DIN/src/DIN.py",
    {**OPTIONS, "din_use_softmax": True},
    SMALL,
    form={"softmax": True},
    remark="FuxiCTR does not divide the weights by √D, as the authors' code does: its last layer has them divided",
    sequence=True,
)
def din_softmax(w: Weights) -> State:
    state = din(w)
    last = f"attention_layers.0.attention_layer.mlp.{2 * len(UNITS)}"
    for kind in ("weight", "bias"):
        state[f"{last}.{kind}"] = state[f"{last}.{kind}"] * EMBEDDING_DIM**-0.5
    return state
