"""LR, FM, Wide & Deep, DeepFM, DCN and DCN-v2.

A model is one function, registered with `case` once for every form that is compared. It gets our weights and returns
FuxiCTR's by name, all of them: what it leaves out, on either side, is an error.
"""

from __future__ import annotations

from parity.registry import HIDDEN, State, Weights, case, zeros


@case("lr", "LR/src/LR.py", {})
def lr(w: Weights) -> State:
    return w.linear("lr_layer") | {"lr_layer.bias": w["linear.bias"].reshape(1)}


@case("fm", "FM/src/FM.py", {})
def fm(w: Weights) -> State:
    return {
        **w.embedding("embedding_layer"),
        **w.linear("fm.lr_layer"),
        "fm.lr_layer.bias": w["linear.bias"].reshape(1),
    }


@case("wide_deep", "WideDeep/WideDeep_torch/src/WideDeep.py", {"hidden_units": HIDDEN})
def wide_deep(w: Weights) -> State:
    return w.embedding("embedding_layer") | w.linear("lr_layer") | w.under("mlp.layers", "dnn.mlp")


@case(
    "deepfm",
    "DeepFM/DeepFM_torch/src/DeepFM.py",
    {"hidden_units": HIDDEN, "batch_norm": True},
    form={"mlp": {"hidden_units": HIDDEN, "batch_norm": True}},
    remark="FuxiCTR's second bias is 0",
)
@case("deepfm", "DeepFM/DeepFM_torch/src/DeepFM.py", {"hidden_units": HIDDEN}, remark="FuxiCTR's second bias is 0")
def deepfm(w: Weights) -> State:
    return {
        **w.embedding("embedding_layer"),
        **w.linear("fm.lr_layer"),
        **w.under("mlp.layers", "mlp.mlp"),
        "fm.lr_layer.bias": zeros(1),
    }


@case("dcn", "DCN/DCN_torch/src/DCN.py", {"dnn_hidden_units": HIDDEN, "num_cross_layers": 3})
def dcn(w: Weights) -> State:
    state = w.embedding("embedding_layer") | w.under("mlp.layers", "dnn.mlp") | w.under("head", "fc")
    for i in range(3):
        state[f"crossnet.cross_net.{i}.weight.weight"] = w[f"cross.{i}.weight"]
        state[f"crossnet.cross_net.{i}.bias"] = w[f"bias.{i}"]
    return state


@case("dcnv2", "DCNv2/src/DCNv2.py", {"parallel_dnn_hidden_units": HIDDEN, "num_cross_layers": 3})
def dcnv2(w: Weights) -> State:
    return {
        **w.embedding("embedding_layer"),
        **w.under("cross", "crossnet.cross_layers"),
        **w.under("mlp.layers", "parallel_dnn.mlp"),
        **w.under("head", "fc"),
    }


@case(
    "dcnv2",
    "DCNv2/src/DCNv2.py",
    {"model_structure": "stacked", "stacked_dnn_hidden_units": HIDDEN, "num_cross_layers": 3},
    form={"structure": "stacked"},
)
def dcnv2_stacked(w: Weights) -> State:
    return {
        **w.embedding("embedding_layer"),
        **w.under("cross", "crossnet.cross_layers"),
        **w.under("mlp.layers", "stacked_dnn.mlp"),
        **w.under("head", "fc"),
    }


@case(
    "dcnv2_mix",
    "DCNv2/src/DCNv2.py",
    {
        "use_low_rank_mixture": True,
        "low_rank": 3,
        "num_experts": 2,
        "num_cross_layers": 1,
        "parallel_dnn_hidden_units": HIDDEN,
    },
    {"rank": 3, "num_experts": 2},
    form={"num_cross_layers": 1},
    remark="FuxiCTR's layers have the gates in common: of one layer it is the same",
)
def dcnv2_mix(w: Weights) -> State:
    return {
        **w.embedding("embedding_layer"),
        **{f"crossnet.{name[0]}_list.0": w[f"cross.0.{name}"] for name in ("U_ENR", "V_ENR", "C_ESR")},
        **{f"crossnet.gating.{i}.weight": gate[None] for i, gate in enumerate(w["cross.0.gate.weight"])},
        "crossnet.bias.0": w["cross.0.bias_N"][:, None],
        **w.under("mlp.layers", "parallel_dnn.mlp"),
        **w.under("head", "fc"),
    }
