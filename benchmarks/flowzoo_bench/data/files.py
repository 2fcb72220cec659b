"""Which files a data set is, where they come from, and what their bytes hash to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class File:
    """One file of a data set.

    Attributes:
        name: its name upstream, e.g. ``train-images-idx3-ubyte.gz``.
        urls: where it can be had, tried in order.
        sha256: of the *uncompressed* bytes, which stay the same when a mirror compresses anew.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str


@dataclass(frozen=True)
class DataSet:
    """The files of a data set.

    Attributes:
        name: e.g. ``mnist``; also the folder its files lie in below ``FLOWZOO_DATA``.
        files: all of them.
        packaged: folders where a distribution's package puts them.
        note: another way to get them.
    """

    name: str
    files: tuple[File, ...]
    packaged: tuple[str, ...] = ()
    note: str = ""

    def file(self, name: str) -> File:
        """The file called ``name``.

        Raises:
            ValueError: none is.
        """
        for file in self.files:
            if file.name == name:
                return file
        raise ValueError(
            f"file: expected one of {[file.name for file in self.files]}, got {name!r}"
        )


@dataclass(frozen=True)
class Archive:
    """A tar archive of whole data sets, of whose content only the archive's own hash is known.

    Attributes:
        name: the folder below ``FLOWZOO_DATA`` that it, or what is in it, lies in.
        file: its name upstream.
        urls: where it can be had, tried in order.
        md5: of the archive as published. It tells damage from the original; it is no proof against
            somebody who makes two files of one hash.
        top: the folder inside it that holds everything.
        size: roughly, in words.
    """

    name: str
    file: str
    urls: tuple[str, ...]
    md5: str
    top: str
    size: str


def _idx(mirrors: tuple[str, ...], hashes: dict[str, str]) -> tuple[File, ...]:
    return tuple(
        File(f"{name}.gz", tuple(f"{mirror}/{name}.gz" for mirror in mirrors), sha256)
        for name, sha256 in hashes.items()
    )


# the hashes: of the original files of MNIST, and of Debian's dataset-fashion-mnist
MNIST = DataSet(
    "mnist",
    _idx(
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist",
            "http://yann.lecun.com/exdb/mnist",
        ),
        {
            "train-images-idx3-ubyte": (
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
            ),
            "train-labels-idx1-ubyte": (
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
            ),
            "t10k-images-idx3-ubyte": (
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
            ),
            "t10k-labels-idx1-ubyte": (
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
            ),
        },
    ),
)
FASHION_MNIST = DataSet(
    "fashion-mnist",
    _idx(
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",),
        {
            "train-images-idx3-ubyte": (
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
            ),
            "train-labels-idx1-ubyte": (
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
            ),
            "t10k-images-idx3-ubyte": (
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
            ),
            "t10k-labels-idx1-ubyte": (
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
            ),
        },
    ),
    packaged=("/usr/share/datasets/fashion-mnist",),
    note="apt-get install dataset-fashion-mnist on Debian",
)
KNOWN = (MNIST, FASHION_MNIST)
"""All data sets that are read from files."""

# POWER, GAS, HEPMASS, MINIBOONE and BSDS300, as Papamakarios, Pavlakou, Murray (2017) used them
MAF_TABLES = Archive(
    "maf",
    "data.tar.gz",
    (
        "https://zenodo.org/records/1161203/files/data.tar.gz",
        "https://zenodo.org/api/records/1161203/files/data.tar.gz/content",
    ),
    "9b9c9b0375315ad270eba4ce80c093ab",
    top="data",
    size="about 0.8 GB",
)
