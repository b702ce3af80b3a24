"""The packages of the distribution: jaxnn, and the programs in experiments/ as jaxnn.examples.

`jaxnn new` copies these programs. In a checkout it reads experiments/ itself.
"""

from setuptools import find_packages, setup

EXAMPLES = {"jaxnn.examples": "experiments", "jaxnn.examples.gallery": "experiments/gallery"}

setup(
    packages=[*find_packages(include=["jaxnn*"]), *EXAMPLES],
    package_dir=EXAMPLES,
    package_data={
        "jaxnn": ["py.typed"],
        "jaxnn.html": ["*.css", "*.js"],
        "jaxnn.examples.gallery": ["*.npz"],
    },
    exclude_package_data={"jaxnn.examples": ["*.png"]},
)
