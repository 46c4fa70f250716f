"""What every family must satisfy, as functions of a family's maker; `test_contract.py` runs them and plants faults.

A `Case` wraps a maker so that options and learning rates can be traced: its step is compiled once for each mesh and
shared by the checks.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from random_weights import random_weights

from genimg_jax import core, directions
from genimg_jax.engine import checkpoint, parallel
from genimg_jax.errors import ConfigError
from genimg_jax.objectives.interpolation import INTERPOLATIONS

SPEC = core.Spec((8, 8, 1), 10, 2)
BATCH = 8


class Case(NamedTuple):
    make: Callable  # (options, spec, optimizers) -> Family
    options: Any
    groups: tuple[str, ...]
    spec: core.Spec = SPEC


@functools.cache
def batch(size: int = BATCH, spec: core.Spec = SPEC) -> core.Batch:
    """Images with something to learn: bright squares at places that depend on the class."""
    rng = np.random.default_rng(0)
    label = np.arange(size) % spec.num_classes
    image = np.full((size, *spec.image_shape), -1.0, np.float32)
    for i in range(size):
        row, column = divmod(int(label[i]), 4)
        image[i, 2 * row : 2 * row + 3, 2 * column : 2 * column + 2] = 1.0
    flips = rng.random(image.shape) < 0.05
    image = np.where(flips, -image, image)
    fields = {name: random_field(rng, field, size) for name, field in spec.fields.items()}
    return {"image": image, "label": label.astype(np.int32), "index": np.arange(size, dtype=np.int32), **fields}


def random_field(rng: np.random.Generator, field: core.Field, count: int) -> np.ndarray:  # -> [count, *field.shape]
    shape = (count, *field.shape)
    values = rng.integers(field.size, size=shape) if field.size else rng.normal(size=shape)
    return values.astype(np.int32 if field.size else np.float32)


def family(case: Case, rates: dict[str, Any] | None = None, options: Any = None, microbatches: int = 1) -> core.Family:
    """With plain SGD: Adam turns rounding noise on gradients near zero into full steps."""
    optimizers = {g: core.Optimizer(optax.sgd((rates or {}).get(g, 0.01)), 0.9, microbatches) for g in case.groups}
    return case.make(case.options if options is None else options, case.spec, optimizers)


def init(case: Case, seed: jax.Array) -> core.TrainState:
    return family(case).init(core.stream(seed, "init"), batch(2, case.spec))


@functools.cache
def compiled(case: Case, devices: int = 1, fsdp: int = 1):
    """(mesh, abstract state, init(seed), step((state, rates), batch, seed))."""
    options = parallel.Options(devices=devices, fsdp=fsdp, fsdp_min_size=32)
    mesh = parallel.make_mesh(options)
    like = parallel.abstract(jax.eval_shape(lambda: init(case, 0)), mesh, options)
    rates = jax.tree.map(
        lambda _: jax.ShapeDtypeStruct((), jnp.float32, sharding=parallel.replicated(mesh)),
        dict.fromkeys(case.groups, 0),
    )

    def step(carry, data, seed):
        state, rates = carry
        state, metrics = family(case, rates).train_step(state, data, core.stream(seed, "train", state.step))
        return (state, rates), metrics

    start = parallel.compile_init(lambda seed: init(case, seed), like)
    return mesh, like, start, parallel.compile_step(step, (like, rates), mesh, options)


def train(case: Case, steps: int, devices: int = 1, fsdp: int = 1, rates=None, state=None, seed: int = 0):
    """The state after `steps` more steps, and each step's metrics."""
    mesh, _, start, step = compiled(case, devices, fsdp)
    state = start(np.int32(seed)) if state is None else state
    rates = {g: jnp.float32((rates or {}).get(g, 0.01)) for g in case.groups}
    carry = jax.tree.map(jnp.copy, (state, rates))  # the step donates its arguments
    data, history = parallel.put_batch(batch(BATCH, case.spec), mesh), []
    for _ in range(steps):
        carry, metrics = step(carry, data, np.int32(seed))
        history.append(jax.device_get(metrics))
    return carry[0], history


def close(one: core.Tree, two: core.Tree, tolerance: float = 2e-5) -> None:
    for (path, a), b in zip(jax.tree_util.tree_flatten_with_path(one)[0], jax.tree.leaves(two), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        np.testing.assert_allclose(a, b, tolerance, tolerance, err_msg=jax.tree_util.keystr(path))


def identical(one: core.Tree, two: core.Tree) -> None:
    for (path, a), b in zip(jax.tree_util.tree_flatten_with_path(one)[0], jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), jax.tree_util.keystr(path))


@functools.cache
def weights(case: Case) -> core.Weights:
    return core.weights(train(case, 2)[0])


# -------------------------------------------------------------------------------------------------------- checks


def loss_falls(case: Case) -> None:
    """Each group, trained alone, lowers its own loss; every metric of every step is finite."""
    for group in case.groups:
        _, history = train(case, 25, rates={g: 0.02 if g == group else 0.0 for g in case.groups})
        assert all(np.isfinite(v).all() for metrics in history for v in metrics.values())
        name = "loss" if "loss" in history[0] else f"loss_{group}"
        losses = [metrics[name] for metrics in history]
        assert np.mean(losses[-5:]) < np.mean(losses[:5]), (group, losses)


def groups_cover_parameters(case: Case) -> None:
    """The groups are the optimisers'; no array is in two; a step from random weights reaches all of them.

    Random, since layers that begin at zero let no gradient through.
    """
    state, _ = train(case, 0)
    state = state.replace(params=random_weights(lambda: state.params))
    after, _ = train(case, 1, rates=dict.fromkeys(case.groups, 1.0), state=state)
    assert set(state.params) == set(case.groups) == set(state.opt_state)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(state.params), jax.tree.leaves(after.params), strict=True
    ):
        assert not np.array_equal(a, b), f"{jax.tree_util.keystr(path)} is never trained"
    for tree in (state.model_state, state.frozen_params):
        assert not {id(x) for x in jax.tree.leaves(tree)} & {id(x) for x in jax.tree.leaves(state.params)}


def same_seed_same_bits(case: Case) -> None:
    identical(train(case, 3, seed=1)[0], train(case, 3, seed=1)[0])
    one, other = train(case, 1, seed=1)[0].params, train(case, 1, seed=2)[0].params
    assert any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def devices_agree(case: Case, devices: int, fsdp: int) -> None:
    start = train(case, 0)[0]
    like = compiled(case, devices, fsdp)[1]
    placed = jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), start, like)
    alone, histories = train(case, 3, state=start)
    together, other = train(case, 3, devices, fsdp, state=placed)
    close(alone, together)
    close(histories, other)
    if fsdp > 1:
        split = [x for x in jax.tree.leaves(together.params) if not x.sharding.is_fully_replicated]
        assert split, "no array was split over fsdp"


def resumes(case: Case, directory, devices: int = 2, fsdp: int = 2) -> None:
    """Bit for bit on the same devices; on others, the same numbers."""
    whole, _ = train(case, 4)
    half, _ = train(case, 2)
    store = checkpoint.open_store(directory)
    checkpoint.save(store, half, {"family": "x"}, None)
    checkpoint.wait(store)
    again = checkpoint.restore(store, 2, compiled(case)[1].replace(frozen_params=half.frozen_params))
    identical(half, again)
    identical(whole, train(case, 2, state=again)[0])
    like = compiled(case, devices, fsdp)[1]
    frozen = jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), half.frozen_params, like.frozen_params)
    elsewhere = checkpoint.restore(store, 2, like.replace(frozen_params=frozen))
    checkpoint.close(store)
    close(whole, train(case, 2, devices, fsdp, state=elsewhere)[0])


def microbatches_agree(case: Case) -> None:
    """Two slices a step give the whole batch's update; batch statistics, where there are any, are each slice's own."""
    start = train(case, 0)[0]
    if jax.tree.leaves(start.model_state):
        return
    data, key = batch(BATCH, case.spec), core.stream(0, "train", start.step)
    halves, _ = jax.jit(family(case, microbatches=2).train_step)(start, data, key)
    close(train(case, 1)[0], halves)


def samples_are_their_own(case: Case) -> None:
    """Sample i follows from its key and condition: not from its batch's size, order or other members."""
    made = family(case)
    if made.sample is None:
        return
    keys, data = core.per_example_keys(core.stream(0, "sample"), jnp.arange(8)), batch(8, case.spec)
    condition = {name: data[name] for name in ("label", *case.spec.fields)}
    draw = jax.jit(made.sample)
    whole = draw(weights(case), keys, condition)
    assert whole.shape == (8, *case.spec.image_shape) and np.abs(whole).max() <= 1 + 1e-6
    assert np.std(whole, axis=0).max() > 1e-4, "every sample is the same"
    halves = [draw(weights(case), keys[s], jax.tree.map(lambda x: x[s], condition)) for s in (slice(0, 4), slice(4, 8))]  # noqa: B023
    close(whole, np.concatenate(halves))
    backwards = draw(weights(case), keys[::-1], jax.tree.map(lambda x: x[::-1], condition))
    close(whole, backwards[::-1])


FIELDS = {
    "tokens": core.Field((4,), 6),
    "features": core.Field((3,)),
    "map": core.Field((8, 8), 3),
    "source": core.Field((8, 8, 1)),
}


def fields_batch(spec: core.Spec, seed: int) -> core.Batch:
    """The images of `batch`, with random conditions of every kind."""
    rng, data = np.random.default_rng(seed), batch(BATCH, spec._replace(fields={}))
    return {**data, **{name: random_field(rng, field, BATCH) for name, field in spec.conditions.items()}}


def of_all_conditions(case: Case, **changes) -> tuple[core.Family, core.Weights, core.Batch, core.Batch]:
    """The family that is told every kind of field, random weights, and two batches whose conditions differ."""
    spec = case.spec._replace(fields=FIELDS)
    options = dataclasses.replace(case.options, conditions=tuple(spec.conditions), **changes)
    made = family(case._replace(spec=spec, options=options))
    one, two = (fields_batch(spec, seed) for seed in range(2))

    def start() -> core.TrainState:
        return made.init(core.stream(0, "init"), one)

    params = random_weights(lambda: start().params)
    others = jax.jit(lambda: (start().model_state, start().frozen_params))()
    return made, core.Weights(params, *others), one, two


def conditions_are_told(case: Case) -> None:
    """Every kind of field changes what its example becomes, and no other example."""
    made, told, one, two = of_all_conditions(case)
    keys = core.per_example_keys(core.stream(0, "sample"), jnp.arange(BATCH))

    @jax.jit
    def outputs(data: core.Batch) -> core.Tree:
        condition = {name: data[name] for name in made.conditions}
        if made.sample:
            drawn = made.sample(told, keys, condition)
        else:  # a reconstruction
            space = made.latents[0]
            drawn = space.decode(told, space.encode(told, data, core.stream(0, "encode")), condition)
        return drawn, made.evaluate(told, data, core.stream(0, "evaluate"))

    def difference(name: str) -> np.ndarray:  # f32[B], of what the first half's field changes
        """The largest of all outputs, over their scale."""
        half = np.arange(BATCH).reshape(-1, *(1,) * (one[name].ndim - 1)) < BATCH // 2
        changed = outputs({**one, name: np.where(half, two[name], one[name])})
        pairs = zip(jax.tree.leaves(changed), jax.tree.leaves(plain), strict=True)
        each = [np.abs(a - b).reshape(BATCH, -1).max(1) / (1e-6 + np.abs(b).max()) for a, b in pairs]
        return np.max(each, axis=0)

    plain = outputs(one)
    for name in made.conditions:
        found, changes = difference(name), (one[name] != two[name]).reshape(BATCH, -1).any(1)
        assert found[BATCH // 2 :].max() < 1e-5, f"{name} of one example reaches another"
        assert found[: BATCH // 2][changes[: BATCH // 2]].min() > 1e-5, f"{name} is ignored"


def nothing_is_told_at_guidance_0(case: Case) -> None:
    """Guidance of weight 0 is the network without its condition."""
    made, told, one, two = of_all_conditions(case, guidance=0.0)
    denoise = jax.jit(lambda data: made.denoise(told, one["image"], jnp.full(BATCH, 0.5), data))
    np.testing.assert_array_equal(denoise(one), denoise(two))


def latents_agree(case: Case) -> None:
    """Codes are as their spec says; each row is encoded, decoded and drawn alone; paths end at their ends; samples are
    decoded from the prior's codes."""
    made, data = family(case), batch(8, case.spec)
    keys = core.per_example_keys(core.stream(0, "sample"), jnp.arange(8))

    def rows_alone(function, *arguments):
        """What it returns, once the last four rows are the same in the first four places."""
        found = function(*arguments)
        close(found[4:], function(*jax.tree.map(lambda x: x[jnp.arange(8) % 4 + 4], arguments))[:4])
        return found

    for space in made.latents:
        decode = functools.partial(jax.jit(space.decode), weights(case))
        drawn = []
        if space.encode:
            encode = jax.jit(lambda data, encode=space.encode: encode(weights(case), data, core.stream(0, "encode")))
            drawn.append(rows_alone(encode, data))
        if space.prior:
            drawn.append(rows_alone(functools.partial(jax.jit(space.prior), weights(case)), keys, data))
            close(jax.jit(made.sample)(weights(case), keys, data), decode(drawn[-1], data))
        for codes in drawn:
            codes_fit(codes, space.spec)
            image = rows_alone(decode, codes, data)
            assert image.shape == (8, *case.spec.image_shape) and np.abs(image).max() <= 1 + 1e-6
            if space.interpolate:
                between = functools.partial(INTERPOLATIONS[space.interpolate], codes, codes[::-1])
                close(decode(between(jnp.zeros(8)), data), image)
                close(decode(between(jnp.ones(8)), data), decode(codes[::-1], data))


def codes_fit(codes: jax.Array, spec: core.Spec) -> None:
    """Tokens or vectors of the spec's shape, which differ from one another."""
    assert codes.shape == (8, *spec.image_shape) and np.std(codes, axis=0).max() > 0
    if spec.levels:
        assert codes.dtype == jnp.int32 and codes.min() >= 0 and codes.max() < spec.levels
    else:
        assert codes.dtype == jnp.float32 and np.isfinite(codes).all()


def in_range(metrics: Mapping[str, float]) -> None:
    """Every metric is declared, and within the range that it has up to rounding."""
    for name, value in metrics.items():
        found = directions.of(name)
        assert found is not directions.UNKNOWN, name
        assert not np.isfinite(value) or found.low - 1e-5 <= value <= found.high + 1e-5, (name, value)


def evaluation_ignores_padding(case: Case) -> None:
    made, data, key = family(case), batch(5, case.spec), core.stream(0, "evaluate")
    padded = {k: np.concatenate([v, v[:3] * 0 + v.max()]) for k, v in data.items()}
    for name in ("evaluate", "log_prob"):
        function = getattr(made, name)
        if function is not None:
            function = jax.jit(function)
            plain, more = function(weights(case), data, key), function(weights(case), padded, key)
            assert all(v.shape == (5,) for v in jax.tree.leaves(plain))
            if name == "evaluate":
                in_range({metric: np.mean(values) for metric, values in plain.items()})
            close(plain, jax.tree.map(lambda v: v[:5], more))


def objective_is_stated(case: Case) -> None:
    """It names metrics that there are, and a loss that is one among them."""
    made = family(case)
    key = core.stream(0, "evaluate")
    metrics = jax.eval_shape(lambda: made.evaluate(core.weights(init(case, 0)), batch(BATCH, case.spec), key))
    assert set(made.objective) <= {*metrics, *(("log_prob",) if made.log_prob else ())}
    assert ("loss" in made.objective) == ("loss" in metrics)
    # What can be computed or bounded is maximised; what has to be estimated by an ODE is a by-product.
    assert ("log_prob" in made.objective) == (made.likelihood_kind in ("exact", "lower bound"))


def float_options_vectorise(case: Case) -> None:
    """Three learning rates and three values of every float option in one program equal three separate runs."""
    names = [
        f.name for f in dataclasses.fields(case.options) if f.type in (float, "float") and not f.metadata.get("static")
    ]
    swept = {n: getattr(case.options, n) * jnp.array([0.5, 1.0, 1.5]) + jnp.array([0.1, 0.0, 0.2]) for n in names}
    rates = {g: jnp.array([0.01, 0.02, 0.03]) for g in case.groups}
    data, start = batch(BATCH, case.spec), train(case, 0)[0]

    def run(rates, values):
        made = family(case, rates, dataclasses.replace(case.options, **values))

        def step(state, i):
            return made.train_step(state, data, core.stream(0, "train", i))

        return jax.lax.scan(step, start, jnp.arange(2))[0]

    together, alone = jax.jit(jax.vmap(run))(rates, swept), jax.jit(run)
    for i in range(3):
        pick = functools.partial(jax.tree.map, lambda x: x[i])  # noqa: B023
        close(pick(together), alone(pick(rates), pick(swept)), 1e-4)


class _Recorder:
    """Options that remember which of their fields were read."""

    def __init__(self, options: Any, read: set[str]):
        self._options, self._read = options, read

    def __getattr__(self, name: str) -> Any:
        self._read.add(name)
        return getattr(self._options, name)


def options_are_read(case: Case) -> None:
    """Some variant (each choice, each boolean, counts of 2) reads every field while building and tracing.

    Variants that a family refuses, since another option does not suit them, are left out.
    """
    fields, read, variants = dataclasses.fields(case.options), set(), []
    for field in fields:
        value, choices = getattr(case.options, field.name), field.metadata.get("choices", ())
        if choices:
            others = [c for c in choices if c != value]
        elif isinstance(value, bool):
            others = [not value]
        elif field.name == "conditions":
            others = [tuple(n for n in ("label",) if n not in value)]
        else:
            others = [2] if isinstance(value, int) and value == 1 else []
        # What reads most that was not read before comes first: another choice of every option that has some.
        variants += [(not choices, i, {field.name: other}) for i, other in enumerate(others)]
    changes = [{}, *(change for *_, change in sorted(variants, key=lambda variant: variant[:2]))]

    def everything(options):
        made = family(case, options=_Recorder(options, read))
        key, data = core.stream(0, "x"), batch(BATCH, case.spec)
        state = made.init(key, data)
        made.train_step(state, data, key)
        for name in ("evaluate", "log_prob"):
            if getattr(made, name) is not None:
                getattr(made, name)(core.weights(state), data, key)
        if made.sample is not None:
            made.sample(core.weights(state), core.per_example_keys(key, data["index"]), data)
        if made.denoise is not None:
            made.denoise(core.weights(state), data["image"], jnp.ones(BATCH), data)

    for change in changes:
        if {f.name for f in fields} <= read:
            break
        with contextlib.suppress(ConfigError):
            jax.eval_shape(functools.partial(everything, dataclasses.replace(case.options, **change)))
    unread = {f.name for f in fields} - read
    assert not unread, f"never read: {unread}"
