"""The small nets of Caffe's examples: CIFAR-10, the siamese LeNet, the autoencoder and logistic regression."""

from __future__ import annotations

from typing import Any

from caffe_bridge import schema
from caffe_bridge.pycaffe.net_spec import NetSpec
from caffe_bridge.pycaffe.net_spec import layers as L

from . import blocks
from . import zoo_blocks as z

Files = dict[str, Any]

CIFAR10_SOLVER: dict[str, Any] = {
    "net": "train_test.prototxt",
    "test_iter": [100],
    "base_lr": 0.001,
    "momentum": 0.9,
    "weight_decay": 0.004,
    "lr_policy": "fixed",
}


def cifar10_quick() -> Files:
    solver = {"test_interval": 500, "display": 100, "max_iter": 4000, "snapshot": 4000}
    return _cifar10("quick", _quick, "CIFAR10_quick_test", solver)


def cifar10_full() -> Files:
    solver = {"test_interval": 1000, "display": 200, "max_iter": 60000, "snapshot": 10000}
    solver["snapshot_format"] = schema.SolverParameter.HDF5
    return _cifar10("full", _full, "CIFAR10_full_deploy", solver)


def _cifar10(size: str, body: z.Body, deployed: str, solver: dict[str, Any]) -> Files:
    sources = [
        z.data(
            ("data", "label"),
            f"cifar10_{split}_lmdb",
            100,
            z.phase(phase),
            "cifar",
            mean_file="cifar10_mean.binaryproto",
        )
        for phase, split in (("TRAIN", "train"), ("TEST", "test"))
    ]
    return {
        "train_test.prototxt": z.train_test(f"CIFAR10_{size}", sources, z.trained(body)),
        "deploy.prototxt": z.deploy(deployed, (1, 3, 32, 32), z.probabilities(body)),
        "solver.prototxt": CIFAR10_SOLVER | solver | {"snapshot_prefix": f"cifar10_{size}"},
    }


def _quick(n: NetSpec) -> str:
    top = _cifar_convolutions(n, norm=False)
    top = z.fc(n, "ip1", top, 64, z.gaussian(0.1), param=z.PLAIN)
    return z.fc(n, "ip2", top, 10, z.gaussian(0.1), param=z.PLAIN)


def _full(n: NetSpec) -> str:
    param = [{"lr_mult": 1, "decay_mult": 250}, {"lr_mult": 2, "decay_mult": 0}]
    return z.fc(n, "ip1", _cifar_convolutions(n, norm=True), 10, z.gaussian(0.01), param=param)


def _cifar_convolutions(n: NetSpec, norm: bool) -> str:
    """Three convolutions; `norm` normalises below the second and third, and leaves the third's learning rates alone."""
    top = z.conv(n, "conv1", "data", 32, 5, z.gaussian(1e-4), param=z.PLAIN, pad=2, stride=1)
    top = z.pool(n, "pool1", top)
    blocks.relu(n, "relu1", top)
    for i, channels in ((2, 32), (3, 64)):
        if norm:
            n[f"norm{i - 1}"] = L.LRN(n[top], local_size=3, alpha=5e-5, beta=0.75, norm_region=1)
            top = f"norm{i - 1}"
        param = [] if norm and i == 3 else z.PLAIN
        top = z.conv(n, f"conv{i}", top, channels, 5, z.gaussian(0.01), param=param, pad=2, stride=1)
        blocks.relu(n, f"relu{i}", top)
        top = z.pool(n, f"pool{i}", top, "AVE")
    return top


def siamese_lenet() -> Files:
    """LeNet twice with one set of parameters: maps digits to a plane where those of one class are close."""
    sources = [
        z.data(("pair_data", "sim"), f"siamese_{split}_lmdb", size, z.phase(phase), scale=1 / 256)
        for phase, split, size in (("TRAIN", "train", 64), ("TEST", "test", 100))
    ]
    solver = {
        "net": "train_test.prototxt",
        "test_iter": [100],
        "test_interval": 500,
        "base_lr": 0.01,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "lr_policy": "inv",
        "gamma": 0.0001,
        "power": 0.75,
        "display": 100,
        "max_iter": 50000,
        "snapshot": 5000,
        "snapshot_prefix": "siamese_lenet",
    }
    return {
        "train_test.prototxt": z.train_test("mnist_siamese_train_test", sources, _pair),
        "deploy.prototxt": z.deploy("mnist_siamese", (100, 1, 28, 28), _embed),
        "solver.prototxt": solver,
    }


def _pair(n: NetSpec) -> None:
    n.data, n.data_p = L.Slice(n.pair_data, name="slice_pair", ntop=2, slice_dim=1, slice_point=1)
    _embed(n)
    _embed(n, "_p")
    n.loss = L.ContrastiveLoss(n.feat, n.feat_p, n.sim, margin=1)


def _embed(n: NetSpec, suffix: str = "") -> str:
    """From `data` to two numbers; `suffix` ends the names of the second copy, which shares its parameters."""

    def param(name: str) -> list[dict[str, Any]]:
        return [{"name": f"{name}_w", "lr_mult": 1}, {"name": f"{name}_b", "lr_mult": 2}]

    top = f"data{suffix}"
    for i, channels in ((1, 20), (2, 50)):
        top = z.conv(n, f"conv{i}{suffix}", top, channels, 5, z.XAVIER, param=param(f"conv{i}"), stride=1)
        top = z.pool(n, f"pool{i}{suffix}", top, kernel_size=2)
    top = z.fc(n, f"ip1{suffix}", top, 500, z.XAVIER, param=param("ip1"))
    blocks.relu(n, f"relu1{suffix}", top)
    top = z.fc(n, f"ip2{suffix}", top, 10, z.XAVIER, param=param("ip2"))
    return z.fc(n, f"feat{suffix}", top, 2, z.XAVIER, param=param("feat"))


def autoencoder() -> Files:
    """Digits through thirty numbers and back; tested on both sets, which two stages select."""
    sources = [
        z.data(("data",), f"mnist_{split}_lmdb", 100, include, scale=0.0039215684)
        for split, include in (
            ("train", z.phase("TRAIN")),
            ("train", z.phase("TEST", "test-on-train")),
            ("test", z.phase("TEST", "test-on-test")),
        )
    ]
    solver = {
        "net": "train_test.prototxt",
        "test_state": [{"stage": ["test-on-train"]}, {"stage": ["test-on-test"]}],
        "test_iter": [500, 100],
        "test_interval": 500,
        "test_compute_loss": True,
        "base_lr": 0.01,
        "lr_policy": "step",
        "gamma": 0.1,
        "stepsize": 10000,
        "display": 100,
        "max_iter": 65000,
        "weight_decay": 0.0005,
        "momentum": 0.9,
        "snapshot": 10000,
        "snapshot_prefix": "autoencoder",
    }
    return {
        "train_test.prototxt": z.train_test("MNISTAutoencoder", sources, _reconstruct),
        "solver.prototxt": solver,
    }


def _reconstruct(n: NetSpec) -> None:
    param = [{"lr_mult": 1, "decay_mult": 1}, {"lr_mult": 1, "decay_mult": 0}]
    weights = {"type": "gaussian", "std": 1, "sparse": 15}
    n.flatdata = L.Flatten(n.data)
    top = "data"
    widths = {"encode1": 1000, "encode2": 500, "encode3": 250, "encode4": 30}
    widths |= {"decode4": 250, "decode3": 500, "decode2": 1000, "decode1": 784}
    for name, width in widths.items():
        top = z.fc(n, name, top, width, weights, param=param)
        if name == "decode1":
            n.cross_entropy_loss = L.SigmoidCrossEntropyLoss(n[top], n.flatdata, name="loss", loss_weight=1)
        if name != "encode4":
            n[f"{name}neuron"] = L.Sigmoid(n[top])
            top = f"{name}neuron"
    n.l2_error = L.EuclideanLoss(n[top], n.flatdata, name="loss", loss_weight=0)


def logistic_regression() -> Files:
    """Two classes from a row of features."""
    sources = [
        z.hdf5_data(("data", "label"), f"{split}.txt", 10, z.phase(phase))
        for phase, split in (("TRAIN", "train"), ("TEST", "test"))
    ]
    solver = {
        "net": "train_test.prototxt",
        "test_iter": [250],
        "test_interval": 1000,
        "base_lr": 0.01,
        "lr_policy": "step",
        "gamma": 0.1,
        "stepsize": 5000,
        "display": 1000,
        "max_iter": 10000,
        "momentum": 0.9,
        "weight_decay": 0.0005,
        "snapshot": 10000,
        "snapshot_prefix": "logistic_regression",
    }
    body = z.trained(lambda n: z.fc(n, "fc1", "data", 2, z.XAVIER))
    return {
        "train_test.prototxt": z.train_test("LogisticRegressionNet", sources, body),
        "solver.prototxt": solver,
    }
