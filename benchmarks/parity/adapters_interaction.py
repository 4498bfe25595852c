"""AutoInt, xDeepFM, IPNN, FGCNN and EDCN. `adapters` says what an adapter is."""

from __future__ import annotations

from parity.registry import HIDDEN, State, Weights, case, zeros


def attention(w: Weights, num_layers: int) -> State:
    """AutoInt's layers, whose products are one matrix here, and its output layer."""
    state: State = {}
    for i in range(num_layers):
        parts = w[f"attention.{i}.projection.weight"].split(ATTENTION_DIM)
        for name, part in zip(("W_q", "W_k", "W_v", "W_res"), parts, strict=False):
            state[f"self_attention.{i}.{name}.weight"] = part
    return w.embedding("embedding_layer") | state | {"fc.weight": w["head.weight"]}


ATTENTION_DIM = 8
AUTOINT = {"attention_layers": 3, "attention_dim": ATTENTION_DIM, "num_heads": 2}
ATTENTION = {"attention_dim": ATTENTION_DIM}


@case(
    "autoint",
    "AutoInt/src/AutoInt.py",
    AUTOINT | {"dnn_hidden_units": []},
    ATTENTION,
    form={"form": "fuxictr", "scale": False, "layer_norm": False, "mlp": None},
)
def autoint(w: Weights) -> State:
    return attention(w, 3) | {"fc.bias": w["head.bias"]}


@case(
    "autoint",
    "AutoInt/src/AutoInt.py",
    AUTOINT | {"dnn_hidden_units": HIDDEN, "use_wide": True, "use_scale": True, "layer_norm": True},
    ATTENTION,
    form={"form": "fuxictr", "linear": True, "mlp": {"hidden_units": HIDDEN}},
    remark="AutoInt+; FuxiCTR's second bias is 0",
)
def autoint_plus(w: Weights) -> State:
    state = attention(w, 3) | w.under("mlp.layers", "dnn.mlp") | w.linear("lr_layer") | {"fc.bias": zeros(1)}
    for i in range(3):
        state |= w.under(f"attention.{i}.norm", f"self_attention.{i}.layer_norm")
    return state


@case(
    "xdeepfm",
    "xDeepFM/src/xDeepFM.py",
    {"dnn_hidden_units": HIDDEN, "cin_hidden_units": [6, 5, 4]},
    {"cin_maps": [6, 5, 4]},
    remark="FuxiCTR's biases in the CIN are 0",
)
def xdeepfm(w: Weights) -> State:
    state = w.embedding("embedding_layer") | w.linear("lr_layer") | w.under("mlp.layers", "dnn.mlp")
    state |= {"cin.fc.weight": w["cin_head.weight"], "cin.fc.bias": zeros(1)}
    for i in range(3):
        weight_MHF = w[f"cin.weights.{i}"]
        name = f"cin.cin_layer.layer_{i + 1}"
        state[f"{name}.weight"] = weight_MHF.transpose(1, 2).flatten(1)[..., None]  # fields first, there
        state[f"{name}.bias"] = zeros(len(weight_MHF))
    return state


@case("ipnn", "PNN/src/PNN.py", {"hidden_units": HIDDEN})
def ipnn(w: Weights) -> State:
    return w.embedding("embedding_layer") | w.under("mlp.layers", "dnn.mlp")


FGCNN = {"channels": [3, 4, 2], "kernel_heights": 5, "pooling_sizes": 2, "recombined_channels": 2}


@case(
    "fgcnn",
    "FGCNN/src/FGCNN.py",
    FGCNN | {"dnn_hidden_units": HIDDEN, "conv_batch_norm": True},
    {"channels": [3, 4, 2], "kernel_height": 5},
    form={"conv_batch_norm": True},
)
@case(
    "fgcnn",
    "FGCNN/src/FGCNN.py",
    FGCNN | {"dnn_hidden_units": HIDDEN, "conv_batch_norm": False},
    {"channels": [3, 4, 2], "kernel_height": 5},
)
def fgcnn(w: Weights) -> State:
    state = {
        **w.embedding("embedding_layer", part=0),
        **w.embedding("fg_embedding_layer", part=1),
        **w.under("mlp.layers", "dnn.mlp"),
    }
    for i in range(3):
        state |= w.under(f"generator.{i}.conv", f"fgcnn_layer.conv_layers.{i}.0")
        if w.has(f"generator.{i}.norm"):
            state |= w.under(f"generator.{i}.norm", f"fgcnn_layer.conv_layers.{i}.1")
        state |= w.under(f"generator.{i}.recombine", f"fgcnn_layer.recombine_layers.{i}.0")
    return state


@case("edcn", "EDCN/src/EDCN.py", {"num_cross_layers": 3}, form={"cross_residual": False, "batch_norm": False})
@case(
    "edcn",
    "EDCN/src/EDCN.py",
    {"num_cross_layers": 3, "bridge_type": "concatenation", "temperature": 2, "batch_norm": True},
    form={"cross_residual": False, "bridge": "concatenation", "temperature": 2.0, "batch_norm": True},
)
@case(
    "edcn",
    "EDCN/src/EDCN.py",
    {"num_cross_layers": 3, "bridge_type": "pointwise_addition"},
    form={"cross_residual": False, "bridge": "addition", "batch_norm": False},
)
def edcn(w: Weights) -> State:
    state = w.embedding("embedding_layer") | w.under("head", "fc")
    for i in range(3):
        state[f"regulation_modules.{i}.g1"], state[f"regulation_modules.{i}.g2"] = w[f"regulations.{i}.gates"]
        state[f"cross_layers.{i}.weight.weight"] = w[f"layers.{i}.cross.weight"]
        state[f"cross_layers.{i}.bias"] = w[f"layers.{i}.bias"]
        state |= w.under(f"layers.{i}.deep.layers", f"dense_layers.{i}.mlp")
        if w.has(f"layers.{i}.join"):
            state |= w.under(f"layers.{i}.join.layers", f"bridge_modules.{i}.concat_pooling")
        if w.has(f"regulations.{i}.norms"):
            state |= w.under(f"regulations.{i}.norms.0", f"regulation_modules.{i}.bn1")
            state |= w.under(f"regulations.{i}.norms.1", f"regulation_modules.{i}.bn2")
    return state
