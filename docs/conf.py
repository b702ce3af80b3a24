"""Configuration of the documentation: `sphinx-build -W docs docs/_build`."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_extensions")]
# The kernels that run the cells import the package and the experiments of this checkout.
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Cells spend more time in XLA's optimizations than these save.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

from jaxnn.installation import __version__  # noqa: E402

project = "jaxnn"
copyright = "the jaxnn authors"
release = version = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "sphinx_design",
    "gallery",
    "kernels",
    "reference",
    "tables",
]
exclude_patterns = ["tables", "_build", "_extensions", "inventories", "jupyter_execute"]

myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_execution_cache_path = str(HERE / "_build" / ".jupyter_cache")
nb_execution_show_tb = True
nb_merge_streams = True

autodoc_typehints = "none"  # signatures stay short; every argument states its type in words
autodoc_member_order = "bysource"
napoleon_use_rtype = False
python_use_unqualified_type_names = True
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", "inventories/python.inv"),
    "jax": ("https://docs.jax.dev/en/latest", "inventories/jax.inv"),
    "optax": ("https://optax.readthedocs.io/en/latest", "inventories/optax.inv"),
}

html_theme = "pydata_sphinx_theme"
html_title = f"jaxnn {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "jaxnn"},
    "navbar_align": "left",
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "tango",
    "pygments_dark_style": "monokai",
    "navigation_with_keys": False,
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
