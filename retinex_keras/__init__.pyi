# The names of `__init__.py` for editors and type checkers, which do not see what is imported on first use.
from retinex_keras.data.degrade import darken as darken
from retinex_keras.data.pairs import load_pairs as load_pairs
from retinex_keras.data.pairs import load_photos as load_photos
from retinex_keras.data.pipeline import training_patches as training_patches
from retinex_keras.data.pipeline import whole_pairs as whole_pairs
from retinex_keras.inference import decompose as decompose
from retinex_keras.inference import enhance as enhance
from retinex_keras.inference import load_pretrained as load_pretrained
from retinex_keras.recipes.paper import DecomNet as DecomNet
from retinex_keras.recipes.paper import EnhanceNet as EnhanceNet
from retinex_keras.recipes.paper import RetinexNet as RetinexNet
from retinex_keras.training.run import train_retinexnet as train_retinexnet

__version__: str
