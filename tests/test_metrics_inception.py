"""Inception-v3 and its input against the published implementations, with the same random weights; weight files."""

import io
import pickle
import zipfile

import jax
import jax.numpy as jnp
import needs
import numpy as np
import pytest
import safetensors.numpy

from genimg_jax import files
from genimg_jax.errors import CheckpointError, ConfigError, DataError
from genimg_jax.metrics import features, weight_files
from genimg_jax.networks import inception


def random_arrays(seed):
    """Arrays of the published file's names and shapes, of sizes that keep activations near one."""
    rng = np.random.default_rng(seed)
    arrays = {"fc.bias": rng.normal(size=1008)}
    for path, leaf in jax.tree.leaves_with_path(inception.shapes()):
        *names, kind = (entry.key for entry in path)
        if names == ["fc"]:
            arrays["fc.weight"] = rng.normal(size=leaf.shape[::-1]) / 20
        elif kind == "kernel":
            layer, out = ".".join(names[:-1]), leaf.shape[-1]
            fan_in = np.prod(leaf.shape[:-1])
            arrays[f"{layer}.conv.weight"] = rng.normal(size=leaf.shape).transpose(3, 2, 0, 1) * np.sqrt(2 / fan_in)
            arrays[f"{layer}.bn.weight"] = rng.uniform(0.8, 1.2, size=out)
            arrays[f"{layer}.bn.bias"] = 0.1 * rng.normal(size=out)
            arrays[f"{layer}.bn.running_mean"] = 0.1 * rng.normal(size=out)
            arrays[f"{layer}.bn.running_var"] = rng.uniform(0.8, 1.2, size=out)
    return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}


@pytest.fixture(scope="module")
def weight_file(tmp_path_factory):
    """As `torch.save` writes the published file: batch counts and all."""
    torch = needs.module("torch")
    arrays = random_arrays(0)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    layers = [name.removesuffix("weight") for name in arrays if name.endswith("bn.weight")]
    tensors |= {f"{layer}num_batches_tracked": torch.tensor(0) for layer in layers}
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(tensors, path)
    return path


def images(count, height, width):  # -> u8[count, height, width, 3]
    return np.random.default_rng(1).integers(256, size=(count, height, width, 3)).astype(np.uint8)


def scaled(levels):
    return levels.astype(np.float32) / 127.5 - 1


@pytest.mark.slow
def test_features_agree_with_pytorch_fid(weight_file, monkeypatch):
    torch = needs.module("torch")
    reference = needs.module("pytorch_fid.inception")
    monkeypatch.setattr(reference, "load_state_dict_from_url", lambda *_, **__: torch.load(weight_file))
    network = reference.InceptionV3().eval()
    levels = images(2, 40, 52)
    with torch.no_grad():
        expected = network(torch.from_numpy(levels).permute(0, 3, 1, 2) / 255)[0][:, :, 0, 0].numpy()
    found = features.extract(features.inception_features(weight_file), scaled(levels), batch=2)
    assert 0.1 < expected.std() < 10
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.slow
def test_features_and_logits_agree_with_torch_fidelity(weight_file):
    torch = needs.module("torch")
    reference = needs.module("torch_fidelity.feature_extractor_inceptionv3")
    network = reference.FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"], str(weight_file))
    levels = images(2, 32, 32)
    expected = [one.numpy() for one in network(torch.from_numpy(levels).permute(0, 3, 1, 2))]
    for build, one in zip((features.inception_features, features.inception_logits), expected, strict=True):
        found = features.extract(build(weight_file, "tensorflow"), scaled(levels), batch=2)
        np.testing.assert_allclose(found, one, atol=1e-4)


@pytest.mark.parametrize("shape", [(28, 28), (64, 40), (320, 299), (1, 7)])
def test_resize_is_pytorchs(shape):
    """To an eightieth of a level: PyTorch keeps the places in float32."""
    torch = needs.module("torch")
    levels = images(1, *shape)
    tensor = torch.from_numpy(levels).permute(0, 3, 1, 2) / 255
    resized = torch.nn.functional.interpolate(tensor, size=(299, 299), mode="bilinear", align_corners=False)
    found = features.inception_input(jnp.asarray(scaled(levels)), "pytorch-fid")
    np.testing.assert_allclose(found, 2 * resized.permute(0, 2, 3, 1).numpy() - 1, atol=1e-4)


def test_tensorflows_resize_takes_pixels_as_points():
    """Doubled, a ramp's even places are its own values, odd ones lie between, and the last repeats."""
    ramp = features._bilinear(4, 8, "tensorflow") @ np.array([0.0, 1, 2, 3])
    np.testing.assert_allclose(ramp, [0, 0.5, 1, 1.5, 2, 2.5, 3, 3])
    ramp = features._bilinear(4, 8, "pytorch-fid") @ np.array([0.0, 1, 2, 3])
    np.testing.assert_allclose(ramp, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])


def test_grey_images_fill_three_channels_and_others_are_refused():
    grey = scaled(images(2, 8, 8))[..., :1]
    found = np.asarray(features.inception_input(jnp.asarray(grey), "tensorflow"))
    assert found.shape == (2, 299, 299, 3)
    np.testing.assert_array_equal(found[..., 0], found[..., 2])
    with pytest.raises(DataError, match="channels"):
        features.inception_input(jnp.zeros((1, 8, 8, 4)), "tensorflow")


@pytest.mark.parametrize("archive", [True, False])
def test_weight_files_are_read_as_torch_wrote_them(archive, tmp_path):
    """Both layouts, views of one storage, transposed tensors, scalars, half precision, parameters."""
    torch = needs.module("torch")
    base = torch.arange(24.0)
    tensors = {
        "plain": base.reshape(2, 3, 4),
        "view": base[5:11].reshape(2, 3),
        "transposed": base.reshape(4, 6).T,
        "scalar": torch.tensor(7),
        "half": torch.tensor([0.5, 2.0], dtype=torch.float16),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "empty": torch.zeros(0, 3),
    }
    path = tmp_path / "weights.pth"
    torch.save(tensors, path, _use_new_zipfile_serialization=archive)
    found = weight_files.load(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        expected = tensor.detach().numpy()
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)


def test_safetensors_are_read(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([1], np.int64)}
    safetensors.numpy.save_file(arrays, tmp_path / "weights.safetensors")
    found = weight_files.load(tmp_path / "weights.safetensors")
    assert files.digest_arrays(found) == files.digest_arrays(arrays)
    assert files.digest_arrays({**arrays, "b": np.array([2], np.int64)}) != files.digest_arrays(arrays)


class Hostile:
    def __reduce__(self):
        return open, (self.path, "w")


def archive_of(description, path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", description)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_file_that_would_run_something_is_refused_and_does_not_run(protocol, tmp_path):
    hostile, Hostile.path = Hostile(), str(tmp_path / "written")
    archive_of(pickle.dumps({"weight": hostile}, protocol=protocol), tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"weights\.pth cannot be read: it (calls|uses)"):
        weight_files.load(tmp_path / "weights.pth")
    assert not (tmp_path / "written").exists()


def test_damaged_files_are_refused(tmp_path):
    torch = needs.module("torch")
    buffer = io.BytesIO()
    torch.save({"weight": torch.arange(100.0)}, buffer)
    good, path = buffer.getvalue(), tmp_path / "weights.pth"
    for damaged in (b"", b"nonsense", good[: len(good) // 2], good[:-30]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="cannot be read"):
            weight_files.load(path)
    at = good.index(np.float32(50).tobytes())
    path.write_bytes(good[:at] + b"\xff" + good[at + 1 :])
    with pytest.raises(CheckpointError, match="cannot be read"):
        weight_files.load(path)
    path.with_suffix(".safetensors").write_bytes(good)
    with pytest.raises(CheckpointError, match="cannot be read"):
        weight_files.load(path.with_suffix(".safetensors"))
    with pytest.raises(CheckpointError, match="no weight file"):
        weight_files.load(tmp_path / "missing.pth")


def test_a_tensor_may_not_reach_beyond_its_data(tmp_path):
    torch = needs.module("torch")
    buffer = io.BytesIO()
    torch.save({"weight": torch.arange(3.0)}, buffer)
    source = zipfile.ZipFile(buffer)
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        for name in source.namelist():
            content = source.read(name)
            archive.writestr(name, content[:8] if name.endswith("data/0") else content)
    with pytest.raises(CheckpointError, match="beyond its data"):
        weight_files.load(path)


def test_other_weights_are_refused_by_name():
    arrays = random_arrays(1)
    with pytest.raises(CheckpointError, match=r"fc.kernel has shape \(2048, 1000\)"):
        inception.parameters({**arrays, "fc.weight": arrays["fc.weight"][:1000]})
    del arrays["Mixed_6b.branch7x7_2.bn.running_var"]
    with pytest.raises(CheckpointError, match=r"lacks 'Mixed_6b.branch7x7_2.bn.running_var'"):
        inception.parameters(arrays)


def test_unknown_resize(tmp_path):
    with pytest.raises(ConfigError, match="pytorch-fid, tensorflow"):
        features.inception_features(tmp_path / "x.pth", "bicubic")
