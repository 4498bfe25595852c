"""MaskNet, FinalMLP, FinalNet and FCN. `adapters` says what an adapter is."""

from __future__ import annotations

from parity.registry import FIELDS, HIDDEN, State, Weights, case, zeros


def mask_blocks(w: Weights) -> State:
    """MaskNet below its last layers."""
    state = w.embedding("embedding_layer")
    for i, (gain, bias) in enumerate(zip(w["gain_FD"], w["bias_FD"], strict=True)):
        state |= {f"emb_norm.{i}.weight": gain, f"emb_norm.{i}.bias": bias}
    for i in range(2):
        state |= w.under(f"blocks.{i}.mask.layers", f"mask_net.mask_blocks.{i}.mask_layer")
        state |= w.under(f"blocks.{i}.linear", f"mask_net.mask_blocks.{i}.hidden_layer.0")
        state |= w.under(f"blocks.{i}.norm", f"mask_net.mask_blocks.{i}.hidden_layer.1")
    return state


@case(
    "masknet",
    "MaskNet/src/MaskNet.py",
    {"dnn_hidden_units": HIDDEN, "reduction_ratio": 2},
    {"block_units": HIDDEN, "mlp": {"hidden_units": []}, "reduction_ratio": 2},
)
def masknet(w: Weights) -> State:
    return mask_blocks(w) | w.under("mlp.layers.0", "mask_net.fc.0")


@case(
    "masknet",
    "MaskNet/src/MaskNet.py",
    {
        "model_type": "ParallelMaskNet",
        "parallel_num_blocks": 2,
        "parallel_block_dim": 6,
        "dnn_hidden_units": HIDDEN,
    },
    {"block_units": [6, 6], "mlp": {"hidden_units": HIDDEN}},
    form={"structure": "parallel"},
)
def masknet_parallel(w: Weights) -> State:
    return mask_blocks(w) | w.under("mlp.layers", "mask_net.dnn.mlp")


STREAMS = {"mlp1_hidden_units": HIDDEN, "mlp2_hidden_units": [12], "num_heads": 4, "fs_hidden_units": [10]}
OUR_STREAMS = {"mlp2": {"hidden_units": [12]}, "num_heads": 4, "gate_units": [10]}


def streams(w: Weights) -> State:
    """FinalMLP without its gates."""
    return {
        **w.embedding("embedding_layer"),
        **w.under("streams.0.layers", "mlp1.mlp"),
        **w.under("streams.1.layers", "mlp2.mlp"),
        **w.under("head", "fusion_module.w_x"),
        **w.under("head2", "fusion_module.w_y"),
        "fusion_module.w_y.bias": zeros(1),
        "fusion_module.w_xy": w["fusion_HIJ"].reshape(-1, 1),
    }


@case("finalmlp", "FinalMLP/src/FinalMLP.py", STREAMS, OUR_STREAMS, remark="FuxiCTR's second bias is 0")
def finalmlp(w: Weights) -> State:
    state = streams(w)
    for i in range(2):
        state |= w.under(f"gates.{i}.mlp.layers", f"fs_module.fs{i + 1}_gate.mlp")
        state[f"fs_module.fs{i + 1}_ctx_bias"] = w[f"gates.{i}.bias_1D"]
    return state


CONTEXTS = ("1", "4"), ("2",)  # fields that go by their positions


@case(
    "finalmlp",
    "FinalMLP/src/FinalMLP.py",
    STREAMS | {"fs1_context": ["field_1", "field_4"], "fs2_context": ["field_2"]},
    OUR_STREAMS,
    form={"context": CONTEXTS[0], "context2": CONTEXTS[1]},
    remark="FuxiCTR's second bias is 0; context embeddings are the second half of our rows",
)
def finalmlp_with_contexts(w: Weights) -> State:
    state = streams(w)
    for i, positions in enumerate(CONTEXTS):
        state |= w.under(f"gates.{i}.mlp.layers", f"fs_module.fs{i + 1}_gate.mlp")
        embeddings = w.embedding(f"fs_module.fs{i + 1}_ctx_emb", part=1)
        fields = [f".{list(FIELDS)[int(position)]}." for position in positions]
        state |= {name: rows for name, rows in embeddings.items() if any(field in name for field in fields)}
    return state


@case(
    "finalmlp",
    "FinalMLP/src/FinalMLP.py",
    STREAMS | {"use_fs": False, "mlp1_batch_norm": True},
    OUR_STREAMS,
    form={"feature_selection": False, "mlp": {"hidden_units": HIDDEN, "batch_norm": True}},
    remark="FuxiCTR's second bias is 0",
)
def finalmlp_without_gates(w: Weights) -> State:
    return streams(w)


def interactions(w: Weights, ours: str, theirs: str, head: str, num_layers: int, *, batch_norm: bool) -> State:
    """A block of FinalNet and its output layer."""
    state: State = {}
    stride = 2 if batch_norm else 1
    for i in range(num_layers):
        state |= w.under(f"{ours}.{stride * i}.linear", f"{theirs}.layer.{i}.linear")
        if batch_norm:
            state |= w.under(f"{ours}.{stride * i + 1}", f"{theirs}.norm.{i}")
    return state | w.under(f"{ours}.{stride * num_layers}", head)


BLOCKS = {"block1_hidden_units": HIDDEN, "block2_hidden_units": [12]}


@case(
    "finalnet",
    "FinalNet/src/FinalNet.py",
    BLOCKS | {"use_feature_gating": True},
    form={
        "block": {"hidden_units": HIDDEN, "batch_norm": True},
        "block2": {"hidden_units": [12], "batch_norm": True},
    },
)
def finalnet(w: Weights) -> State:
    return {
        **w.embedding("embedding_layer"),
        "feature_gating.linear.weight": w["gate_GF"],
        "feature_gating.linear.bias": w["gate_bias_G1"].squeeze(1),
        **interactions(w, "block", "block1", "fc1", 2, batch_norm=True),
        **interactions(w, "block2", "block2", "fc2", 1, batch_norm=True),
    }


@case(
    "finalnet",
    "FinalNet/src/FinalNet.py",
    BLOCKS | {"block_type": "1B", "residual_type": "sum", "batch_norm": False},
    {"block": {"hidden_units": HIDDEN}},
    form={"num_blocks": 1, "residual": "sum", "field_gate": False},
)
def finalnet_of_one_block(w: Weights) -> State:
    return w.embedding("embedding_layer") | interactions(w, "block", "block1", "fc1", 2, batch_norm=False)


@case(
    "fcn",
    "../../FCN/src/DCNv3.py",  # beside FuxiCTR's repository
    {"num_deep_cross_layers": 3, "num_shallow_cross_layers": 4, "deep_net_dropout": 0, "shallow_net_dropout": 0},
    remark="the authors' code, which calls it DCNv3",
)
def fcn(w: Weights) -> State:
    state = w.embedding("embedding_layer.embedding_layer")
    for ours, theirs, head, layers in (("exponential", "ECN", "dfc", 3), ("linear", "LCN", "sfc", 4)):
        state |= w.under(f"{ours}.cross", f"{theirs}.w")
        state |= w.under(f"{ours}.norm", f"{theirs}.layer_norm")
        state |= w.under(f"{ours}.head", f"{theirs}.{head}")
        state |= {f"{theirs}.b.{i}": w[f"{ours}.bias.{i}"] for i in range(layers)}
    return state
