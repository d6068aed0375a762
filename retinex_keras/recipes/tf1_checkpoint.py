"""Reads the original's TensorFlow 1 checkpoints (https://github.com/weichen582/RetinexNet).

Their names: Enhance-Net is `RelightNet` there, with layers `conv2d` to `conv2d_8`; its output is called `I_delta`.
"""

from pathlib import Path

from retinex_keras.data.pairs import name_some
from retinex_keras.engines import import_keras

# The layers by their names in the original, in the order of ours.
LAYERS = {
    "DecomNet": ("shallow_feature_extraction", *(f"activated_layer_{i}" for i in range(5)), "recon_layer"),
    "RelightNet": ("conv2d", *(f"conv2d_{i}" for i in range(1, 9))),
}


def convert_checkpoint(decom=None, enhance=None):
    """Builds the networks from checkpoints of the original.

    Args:
        decom: folder (or path prefix) of Decom-Net's checkpoint.
        enhance: folder (or path prefix) of Enhance-Net's, the original's "Relight".

    Returns:
        The model and a list of sentences on what was read and what was left over. The model is a `RetinexNet`, or the one
        network whose checkpoint was given.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if it cannot be read, lacks a variable, or holds one of another shape.
    """
    if decom is None and enhance is None:
        raise ValueError("There is nothing to convert; pass the folder of Decom-Net's checkpoint, of Enhance-Net's, or both.")
    for folder in filter(None, (decom, enhance)):
        _index_files(folder)  # says at once what is wrong with it
    import_keras()
    from retinex_keras.recipes.paper import DecomNet, EnhanceNet, RetinexNet

    networks, notes = {}, []
    for key, folder, network, scope in (
        ("decom_net", decom, DecomNet(), "DecomNet"),
        ("enhance_net", enhance, EnhanceNet(), "RelightNet"),
    ):
        if folder is not None:
            network.build((None, None, None, 3))
            names = [f"{scope}/{layer}/{kind}" for layer in LAYERS[scope] for kind in ("kernel", "bias")]
            notes += _read(folder, type(network).__name__, dict(zip(names, network.weights, strict=True)))
            networks[key] = network
    if len(networks) == 1:
        return *networks.values(), notes
    return RetinexNet(**networks), notes


def _read(folder, network, variables):
    """Assigns the checkpoint's values to the variables, {original name: variable}; returns sentences on it."""
    import tensorflow as tf  # here, since this package of recipes is also imported where only JAX is installed

    prefix = _prefix(folder)
    try:
        reader = tf.train.load_checkpoint(prefix)
        shapes = reader.get_variable_to_shape_map()
        missing = [name for name in variables if name not in shapes]
        if missing:
            scopes = sorted({name.split("/")[0] for name in shapes if "/" in name})
            raise ValueError(
                f"{prefix} lacks {len(missing)} of the {len(variables)} variables of {network}: {name_some(missing)}. It holds "
                f"variables of {', '.join(scopes) or 'no network'}: pass the folder of the right network."
            )
        for name, variable in variables.items():
            if tuple(shapes[name]) != tuple(variable.shape):
                raise ValueError(
                    f"{prefix} holds {name} of shape {tuple(shapes[name])}. Expected {tuple(variable.shape)}: is it the "
                    "original's network?"
                )
            variable.assign(reader.get_tensor(name))
    except (tf.errors.OpError, IndexError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{prefix} could not be read ({reason}); is the copy complete (.index and .data files)?") from None
    left = set(shapes) - set(variables)
    slots = {n for n in left if n.rpartition("/")[0] in variables or n in ("beta1_power", "beta2_power")}
    others = sorted(left - slots)
    notes = [f"{network}: read {len(variables)} variables from {prefix}; none is missing."]
    if slots:
        notes.append(f"{network}: {len(slots)} variables of the optimizer are left over.")
    if others:
        notes.append(f"{network}: {len(others)} variables of other networks are left over: {name_some(others)}.")
    return notes


def _index_files(folder):
    """The files that end in `.index`, one a checkpoint, in a folder, the latest last; of the path of a checkpoint the one."""
    folder, index = Path(folder), Path(f"{folder}.index")
    if index.is_file():
        return [index]
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}; pass the one that holds the checkpoint's .index file.")
    found = sorted(folder.glob("*.index"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise FileNotFoundError(f"{folder} holds no TensorFlow checkpoint; pass the folder that holds its .index file.")
    return found


def _prefix(folder):
    """The path of a checkpoint without `.index`: the folder's latest, or the path itself if it is one."""
    import tensorflow as tf

    folder, found = Path(folder), _index_files(folder)
    state = tf.train.get_checkpoint_state(folder)
    # The path that the state names may be another machine's; its last part names the latest files here.
    latest = folder / (Path(state.model_checkpoint_path).name + ".index") if state else found[-1]
    return str(latest if latest in found else found[-1])[: -len(".index")]
