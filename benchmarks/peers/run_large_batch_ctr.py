"""LargeBatchCTR, the CowClip authors' trainer, ported: bytedance/LargeBatchCTR@12101b4 pins TensorFlow 2.4.

Written anew against TensorFlow's Keras 2 from what that code does: a Keras embedding per field and another of width 1
for the linear part, L2 as a Keras regularizer (so every gradient is as large as its table), `train_step` with the clip
between gradient and update, Adam as Keras 2 had it, `fit` on a dictionary of columns, binary cross-entropy and a
scikit-learn AUC of every batch as metrics. Its logging and its validation after every epoch are left out.

The clip, for row i of a field's table, which a batch holds cnt_i times (1, where it does not hold it):

    g_i ← g_i · t_i / max(‖g_i‖, t_i)        t_i = cnt_i · r · max(‖w_i‖, r·√D·ζ)

The variant is the rates. `published`: its recipe for DeepFM on Criteo, by its rule: √s for the dense rate, s for L2 at
s times 1,024 rows, the dense rate ramping up over the first epoch. `plain`: the other trainers' Adam at 1e-3 for all
weights and no ramp, the smallest recipe's L2. Wide & Deep and DCN-v2 go by the recipe for DeepFM. What that code
calls DCNv2 is a mixture of low-rank layers; here it is its DCN with full matrices, without the linear part.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any

import measure
import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras as keras
from sklearn.metrics import roc_auc_score

CLIP, ZETA, INIT_STD = 1.0, 1e-5, 1e-2  # of the recipe
BASE_BATCH_SIZE, DENSE_RATE, EMBEDDING_RATE, L2 = 1024, 8e-4, 1e-4, 1e-5
CROSS_L2 = 1e-5  # at every batch size
LINEAR = "linear_"  # the prefix of the linear part's embeddings


@dataclass(frozen=True)
class Rates:
    dense: Any  # a rate or a schedule
    embedding: float
    l2: float
    described: str


def rates(job: measure.Job, epoch_rows: int) -> Rates:
    """The variant's rates at the job's batch size."""
    if job.variant == "plain":
        return Rates(measure.LEARNING_RATE, measure.LEARNING_RATE, L2, f"1e-3 for all, no ramp, L2 {L2:g}")
    scale = job.batch_size / BASE_BATCH_SIZE
    dense, l2 = DENSE_RATE * sqrt(scale), L2 * scale
    ramp = keras.optimizers.schedules.PolynomialDecay(1e-8, max(epoch_rows // job.batch_size, 1), dense, power=1)
    described = f"published: {dense:.2e} dense after one epoch's ramp, {EMBEDDING_RATE:g} embeddings, L2 {l2:.2e}"
    return Rates(ramp, EMBEDDING_RATE, l2, described)


class FactorizationMachine(keras.layers.Layer):
    """Σ_{f<g} ⟨u_f, u_g⟩ of rows (B, F, D), shape (B, 1)."""

    def call(self, rows_BFD: tf.Tensor) -> tf.Tensor:
        squares = tf.square(tf.reduce_sum(rows_BFD, 1)) - tf.reduce_sum(tf.square(rows_BFD), 1)
        return 0.5 * tf.reduce_sum(squares, 1, keepdims=True)


class CrossNet(keras.layers.Layer):
    """x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l, shape (B, N)."""

    def build(self, shape: Any) -> None:
        width, penalty = shape[-1], keras.regularizers.l2(CROSS_L2)
        self.layers = [
            (
                self.add_weight(f"kernel_{i}", (width, width), initializer="glorot_normal", regularizer=penalty),
                self.add_weight(f"bias_{i}", (width,), initializer="zeros"),
            )
            for i in range(measure.CROSS_LAYERS)
        ]

    def call(self, x0_BN: tf.Tensor) -> tf.Tensor:
        x_BN = x0_BN
        for kernel, bias in self.layers:
            x_BN = x0_BN * (x_BN @ kernel + bias) + x_BN
        return x_BN


class ClippingModel(keras.Model):
    """A Keras model that clips the gradients of its embeddings, and updates them by an optimizer of their own."""

    embedding_optimizer: Any

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        counted = {name: tf.unique_with_counts(tf.reshape(x[name], [-1])) for name in self.categorical}
        with tf.GradientTape() as tape:
            predicted = self(x, training=True)
            loss = self.compiled_loss(y, predicted, regularization_losses=self.losses)
        gradients = tape.gradient(loss, self.trainable_variables)
        embeddings, dense = [], []
        for weight, gradient in zip(self.trainable_variables, gradients, strict=True):
            field = self.field_of.get(weight.ref())
            if field is None:
                dense.append((gradient, weight))
            elif field.startswith(LINEAR):
                embeddings.append((gradient, weight))
            else:
                embeddings.append((clipped(weight, gradient, counted[field].y, counted[field].count), weight))
        self.embedding_optimizer.apply_gradients(embeddings)
        self.optimizer.apply_gradients(dense)
        self.compiled_metrics.update_state(y, predicted)
        return {metric.name: metric.result() for metric in self.metrics}


def clipped(w_VD: tf.Tensor, g_VD: tf.Tensor, ids: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
    """The gradient of a whole table after the clip."""
    floor = CLIP * sqrt(measure.EMBEDDING_DIM) * ZETA
    occurrences = tf.tensor_scatter_nd_update(tf.ones(tf.shape(w_VD)[:1], counts.dtype), ids[:, None], counts)
    threshold = CLIP * tf.maximum(tf.norm(w_VD, axis=1), floor) * tf.cast(occurrences, tf.float32)
    return g_VD * (threshold / tf.maximum(tf.norm(g_VD, axis=1), threshold))[:, None]


def auc(y_true: tf.Tensor, y_score: tf.Tensor) -> tf.Tensor:
    """AUC of one batch; 0.5 where it is undefined."""

    def score(labels: npt.NDArray[np.float32], predicted: npt.NDArray[np.float32]) -> float:
        return 0.5 if labels.min() == labels.max() else float(roc_auc_score(labels.ravel(), predicted.ravel()))

    return tf.numpy_function(score, (y_true, y_score), tf.double)


def build(name: str, fields: measure.Fields, l2: float, first_seed: int) -> ClippingModel:
    """DeepFM, DCN-v2 or Wide & Deep. Every table has a seed of its own, lest those of one size start out the same."""
    penalty = keras.regularizers.l2(l2)
    inputs = {field: keras.Input((1,), name=field, dtype="int32") for field in fields.categorical}
    numeric = {column: keras.Input((1,), name=column, dtype="float32") for column in fields.numeric}
    tables = {
        prefix + field: keras.layers.Embedding(
            size,
            width,
            embeddings_initializer=keras.initializers.RandomNormal(0.0, std, seed) if std else "zeros",
            embeddings_regularizer=penalty,
            name=f"embedding_{prefix}{field}",
        )
        for prefix, width, std in (("", measure.EMBEDDING_DIM, INIT_STD), (LINEAR, 1, 0.0))
        if prefix != LINEAR or name != "dcnv2"
        for seed, (field, size) in enumerate(fields.categorical.items(), first_seed)
    }
    concatenate = keras.layers.Concatenate
    rows_BFD = concatenate(axis=1)([tables[field](column) for field, column in inputs.items()])
    numeric_BK = concatenate()(list(numeric.values()))
    x0_BN = hidden = concatenate()([keras.layers.Flatten()(rows_BFD), numeric_BK])
    for units in measure.HIDDEN_UNITS:
        hidden = keras.layers.Dense(units, "relu", kernel_initializer="glorot_normal")(hidden)
    if name == "dcnv2":
        hidden = concatenate()([CrossNet()(x0_BN), hidden])
    logits = [keras.layers.Dense(1, kernel_initializer="glorot_normal")(hidden)]
    if name != "dcnv2":
        linear_BF1 = concatenate(axis=1)([tables[LINEAR + field](column) for field, column in inputs.items()])
        logits.append(tf.reduce_sum(linear_BF1, 1))
        logits.append(keras.layers.Dense(1, use_bias=False, kernel_regularizer=penalty)(numeric_BK))
    if name == "deepfm":
        logits.append(FactorizationMachine()(rows_BFD))
    logit = keras.layers.Add()(logits) if len(logits) > 1 else logits[0]
    model = ClippingModel(inputs=inputs | numeric, outputs=keras.layers.Activation("sigmoid")(logit))
    model.categorical = tuple(fields.categorical)
    model.field_of = {table.embeddings.ref(): field for field, table in tables.items()}
    return model


class LargeBatchCTR:
    def __init__(self, job: measure.Job, fields: measure.Fields) -> None:
        self.fields, self.batch_size = fields, job.batch_size
        tf.config.threading.set_intra_op_parallelism_threads(job.threads)
        tf.config.threading.set_inter_op_parallelism_threads(job.threads)
        keras.utils.set_random_seed(job.seed)
        rows = job.rows or json.loads((job.data / "meta.json").read_text())["rows"]["train"]
        chosen = rates(job, rows)
        self.model = build(job.model, fields, chosen.l2, 1000 * job.seed)
        table = sum(int(tf.size(weight)) for weight in self.model.weights if weight.ref() in self.model.field_of)
        self.model.embedding_optimizer = keras.optimizers.legacy.Adam(chosen.embedding)
        self.model.compile(
            keras.optimizers.legacy.Adam(chosen.dense), "binary_crossentropy", metrics=["binary_crossentropy", auc]
        )
        self.settings: dict[str, Any] = {
            "port": f"of LargeBatchCTR to TensorFlow {tf.__version__}, Keras {keras.__version__}; not its own code",
            "optimizer": f"adam with CowClip, {chosen.described}",
            "metrics": "binary cross-entropy and scikit-learn's AUC of every batch, as in its script",
            "validation": "none",
            **measure.parameter_counts(self.model.count_params() - table, table),
        }

    def prepare(self, rows: measure.Rows) -> tuple[dict[str, npt.NDArray[np.generic]], npt.NDArray[np.float32]]:
        return rows.columns(self.fields), rows.labels[:, None]

    def fit(self, prepared: tuple[dict[str, npt.NDArray[np.generic]], npt.NDArray[np.float32]]) -> None:
        columns, labels = prepared
        self.model.fit(columns, labels, batch_size=self.batch_size, epochs=1, verbose=2)

    def predict(self, rows: measure.Rows) -> npt.NDArray[np.float64]:
        return self.scorer(rows, measure.SCORED_AT_A_TIME)()

    def scorer(self, rows: measure.Rows, batch_size: int) -> Callable[[], npt.NDArray[np.float64]]:
        columns = rows.columns(self.fields)
        return lambda: self.model.predict(columns, batch_size=batch_size, verbose=0).ravel().astype(np.float64)


if __name__ == "__main__":
    measure.main(LargeBatchCTR)
