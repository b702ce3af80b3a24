"""Data sets from installed packages, and conversion of data of any kind to training batches.

    from jaxnn import data

    cancer = data.breast_cancer()                         # nothing is downloaded
    scale = data.Standardizer.fit(cancer.train.x)         # training statistics only
    cancer = cancer.map(x=scale)                          # the same map for every part
    x, y = cancer.train

Data that do not fit on the device are a `source` of batches: `HostArrays`, `Records`, or a `Grain`
pipeline. Batches and data may be any pytree of `rows`, frames, DataLoaders, and generators;
`accept` converts everything that a run accepts to a pytree of rows or a source, and augments the
batches of a run.

`packaged` contains the data sets, and `dataset` their classes and the split of rows. `rows` and
`check` check arrays, `augment` changes or standardizes them, and `geometry` and `image_transforms`
change images. `records`, `grain_pipeline`, and `stream` are sources; `source` describes them, and
reads ahead of the training.
"""

from jaxnn.data.accept import Augmentation as Augmentation
from jaxnn.data.accept import Augmented as Augmented
from jaxnn.data.accept import as_source as as_source
from jaxnn.data.accept import check_resumable as check_resumable
from jaxnn.data.accept import fingerprint_of as fingerprint_of
from jaxnn.data.accept import is_resumable as is_resumable
from jaxnn.data.accept import pieces as pieces
from jaxnn.data.augment import Standardizer as Standardizer
from jaxnn.data.augment import cutmix as cutmix
from jaxnn.data.augment import cutout as cutout
from jaxnn.data.augment import mixup as mixup
from jaxnn.data.augment import random_crop as random_crop
from jaxnn.data.augment import random_flip as random_flip
from jaxnn.data.augment import random_shift as random_shift
from jaxnn.data.check import check as check
from jaxnn.data.dataset import Dataset as Dataset
from jaxnn.data.dataset import Examples as Examples
from jaxnn.data.dataset import Text as Text
from jaxnn.data.dataset import decode as decode
from jaxnn.data.dataset import encode as encode
from jaxnn.data.dataset import read_text as read_text
from jaxnn.data.dataset import split as split
from jaxnn.data.geometry import elastic_transform as elastic_transform
from jaxnn.data.geometry import gaussian_blur as gaussian_blur
from jaxnn.data.geometry import random_affine as random_affine
from jaxnn.data.geometry import random_erasing as random_erasing
from jaxnn.data.geometry import random_perspective as random_perspective
from jaxnn.data.geometry import random_resized_crop as random_resized_crop
from jaxnn.data.geometry import spec_augment as spec_augment
from jaxnn.data.grain_pipeline import Grain as Grain
from jaxnn.data.image_transforms import adjust_sharpness as adjust_sharpness
from jaxnn.data.image_transforms import aug_mix as aug_mix
from jaxnn.data.image_transforms import autocontrast as autocontrast
from jaxnn.data.image_transforms import color_jitter as color_jitter
from jaxnn.data.image_transforms import equalize as equalize
from jaxnn.data.image_transforms import grayscale as grayscale
from jaxnn.data.image_transforms import posterize as posterize
from jaxnn.data.image_transforms import rand_augment as rand_augment
from jaxnn.data.image_transforms import random_apply as random_apply
from jaxnn.data.image_transforms import solarize as solarize
from jaxnn.data.image_transforms import trivial_augment as trivial_augment
from jaxnn.data.packaged import breast_cancer as breast_cancer
from jaxnn.data.packaged import diabetes as diabetes
from jaxnn.data.packaged import digits as digits
from jaxnn.data.packaged import mnist_5k as mnist_5k
from jaxnn.data.packaged import python_reference as python_reference
from jaxnn.data.records import HostArrays as HostArrays
from jaxnn.data.records import Records as Records
from jaxnn.data.rows import check_finite as check_finite
from jaxnn.data.rows import check_like as check_like
from jaxnn.data.rows import check_rows as check_rows
from jaxnn.data.rows import row_count as row_count
from jaxnn.data.rows import row_spec as row_spec
from jaxnn.data.source import Batches as Batches
from jaxnn.data.source import NoEpochs as NoEpochs
from jaxnn.data.source import Source as Source
from jaxnn.data.source import batches as batches
from jaxnn.data.source import epoch_order as epoch_order
from jaxnn.data.source import prefetched as prefetched
from jaxnn.data.stream import Stream as Stream
